"""What the tests make and run: checkpoints, corpora, hubs, a Slurm, commands."""
