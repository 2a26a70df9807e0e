"""What is trained on embeddings: heads as model folders (see README.md)."""
