"""Prediction → what users read: tables, embeddings, timelines, and how they are published (see README.md)."""
