"""A file for each command: its options and its call, which imports what does the work."""
