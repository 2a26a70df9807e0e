"""The command line: words and variables → frozen options → a command → its exit code. Only this wing imports Click."""
