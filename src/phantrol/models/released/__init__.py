"""The seven released models: what they are, and how their files become a phantrol model."""
