"""LoRA adapters as values, and the files that hold them. Never loads torch."""
