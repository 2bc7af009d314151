"""From a record on disk to one HTML file, without weights, GPU or torch."""
