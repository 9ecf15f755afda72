"""The reference world: a fictional registry, its text, and the model trained on it."""
