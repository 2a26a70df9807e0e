"""INPUT → Utterance: read and check the lists, choose ids and channels, and cut the list into blocks."""
