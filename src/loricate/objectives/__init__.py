"""What attacks maximize, one file each."""
