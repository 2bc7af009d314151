"""Adapter training, input preprocessing and regularizers, one file each."""
