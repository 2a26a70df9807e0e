"""Embeddings and labels → probes: classifiers of any classes, and what they are worth."""
