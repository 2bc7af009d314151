"""What a file is checked for, one rule each."""
