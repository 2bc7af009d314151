"""What is measured about outputs, one file each."""
