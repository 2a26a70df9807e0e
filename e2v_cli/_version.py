"""The version of e2v, which imports nothing."""

__version__ = "0.1.0"
