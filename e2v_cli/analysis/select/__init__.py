"""Predictions and rules → the utterances that are kept."""
