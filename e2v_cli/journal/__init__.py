"""OUT as a run folder: the processes that work there, and the utterances that are done, safe in any crash."""
