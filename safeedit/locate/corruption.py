"""The noise that makes a model lose a fact: Gaussian, on the embeddings of the subject's tokens.

ROME, arXiv 2202.05262, section 2.1: three times the standard deviation of the embeddings of the
subjects' tokens. The noise of a prompt depends on the seed and on the prompt's own tokens alone, so
that neither batches nor the prompts beside it change a map, and the noise of two facts is independent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from safeedit.canonical import canonical_json
from safeedit.locate.prompts import Prompt
from safeedit.locate.sites import Sites

SIGMAS = 3.0
"""The published strength."""


@torch.no_grad()
def noise_scale(sites: Sites, prompts: Sequence[Prompt], device: torch.device) -> float:
    """`SIGMAS` times the standard deviation over the embeddings of the tokens of the distinct subjects."""
    subjects = {prompt.ids[prompt.first : prompt.last + 1] for prompt in prompts}
    ids = torch.tensor([[token for subject in sorted(subjects) for token in subject]], device=device)
    embedded: Tensor = sites.embedding(ids)
    return SIGMAS * float(embedded.float().std())


def noise_for(
    prompts: Sequence[Prompt], columns: int, width: int, samples: int, scale: float, seed: int
) -> Tensor:
    """(prompts * samples, columns, width) float32, zero but at the subjects' tokens; samples together."""
    found = torch.zeros(len(prompts), samples, columns, width)
    for index, prompt in enumerate(prompts):
        # Only what every part of the object has in common, so that all parts see the same noise.
        own = canonical_json([seed, list(prompt.ids[: prompt.end + 1])])
        number = int.from_bytes(hashlib.sha256(b"safeedit:noise:1\0" + own).digest()[:7])
        generator = torch.Generator().manual_seed(number)
        tokens = prompt.last + 1 - prompt.first
        drawn = torch.randn(samples, tokens, width, generator=generator)
        found[index, :, prompt.first : prompt.last + 1] = scale * drawn
    return found.flatten(0, 1)
