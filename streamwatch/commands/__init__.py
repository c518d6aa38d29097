"""One file for each command that no room has of its own: arguments in, exit code out."""
