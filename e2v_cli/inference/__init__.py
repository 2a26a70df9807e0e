"""Batch → Prediction: batches, windows of long utterances, e2v's engine and upstream's own (see README.md)."""
