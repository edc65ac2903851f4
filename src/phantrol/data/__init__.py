"""Examples for training and evaluation: where they come from and how they become tensors."""
