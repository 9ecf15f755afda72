"""Runs: the folder, the log, the vault, and what ties a request to a verdict."""
