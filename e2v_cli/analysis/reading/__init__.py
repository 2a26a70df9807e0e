"""Predictions, references, embeddings and lists of runs, a block at a time."""
