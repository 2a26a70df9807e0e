"""e2v: speech emotion recognition with emotion2vec over whole Kaldi-style corpora."""

__version__ = "0.1.0"
