"""A decoder as editors and probes see it: structure, tokens, partial passes, text."""
