"""Answers and labels → a score, and its files."""
