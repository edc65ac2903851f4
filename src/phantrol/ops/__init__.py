"""Floor 0: pure functions on tensors. They import torch and nothing else."""
