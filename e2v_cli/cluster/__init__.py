"""Schedulers: the task of a process in a job, jobs and scripts for Slurm, and the notes of submitted jobs."""
