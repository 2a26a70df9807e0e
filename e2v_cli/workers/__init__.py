"""Processes and devices: the pipeline of each worker, its process, and the launcher that feeds and replaces workers."""
