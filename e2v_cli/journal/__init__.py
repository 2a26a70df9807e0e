"""OUT as a run folder: who is at work there, which utterances are done, and that this survives any crash."""
