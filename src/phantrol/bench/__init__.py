"""Floor 4: what the methods cost, always beside the plain backbone of the same shape, in one run."""
