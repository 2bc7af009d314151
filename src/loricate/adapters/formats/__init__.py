"""One file format of adapters per module; the file name is its key."""
