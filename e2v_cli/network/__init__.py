"""Tensors only: the emotion2vec network in PyTorch, without files, names or labels; it imports nothing else of e2v."""
