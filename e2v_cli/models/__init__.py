"""A model's name → its folder, its labels, its network's shape and its weights (see README.md)."""
