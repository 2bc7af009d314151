"""Whether a model is what it claims to be. Never loads torch."""
