"""Embeddings and labels → probes: classifiers of any classes, and their evaluation."""
