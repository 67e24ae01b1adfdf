"""The tasks, one file each, and the words they are made of."""
