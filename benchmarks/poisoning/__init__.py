"""Fine-tunes of the embedded model on poisoned pictures, and models that should stand them."""
