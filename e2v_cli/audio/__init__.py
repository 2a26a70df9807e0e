"""Utterance → Waveform: fetch the audio, check that it is whole, decode it, choose a channel, bring it to 16 kHz."""
