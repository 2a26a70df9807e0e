"""Training of heads on embeddings, and model folders with such heads (see README.md)."""
