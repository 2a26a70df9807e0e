"""Schedulers: the task that a process is in a job, jobs and scripts for Slurm, and the note of what was submitted."""
