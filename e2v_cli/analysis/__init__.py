"""Predictions → knowledge: labels, and what is computed of posteriors (see README.md)."""
