"""The commands, without the command line: options in, text or a summary out."""
