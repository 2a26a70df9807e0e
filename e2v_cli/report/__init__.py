"""The report of a run: one HTML page, to see what it holds and to listen to what is doubtful."""
