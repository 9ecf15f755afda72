"""Tensors and files on disk: digests, atomic writes."""
