"""Causal tracing: which layers and tokens of a model carry a fact (ROME, arXiv 2202.05262, section 2)."""
