"""Analysis of predictions and embeddings: labels, metrics, scores, selections, probes, similarity (see README.md)."""
