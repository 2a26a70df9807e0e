"""Helpers of the tests: checkpoints, corpora, hubs, a Slurm cluster, commands."""
