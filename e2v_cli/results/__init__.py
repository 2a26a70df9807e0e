"""Prediction → files for users: tables, embeddings, timelines, and their publication (see README.md)."""
