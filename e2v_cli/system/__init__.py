"""The machine: files that survive a crash, temporary arrays on disk, processes, signals, logs, progress and text."""
