"""Where a side memory is to act: a key space in which a name is always near itself and far from others.

What a name's last token brings to the edited module varies with the sentence that it stands in, and that
variation is shared by all names; what tells names apart is not. So inputs are compared after a linear
discriminant projection (Fisher, 1936; Rao, 1948): whitened by how inputs of one name differ among
themselves, and kept only in the directions in which names differ. Invented names show both as well as
the edited ones, so that it can be found for a single edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from safeedit.editors.prepared import BATCH
from safeedit.editors.rows import Row
from safeedit.editors.solve import cholesky
from safeedit.errors import EditorError
from safeedit.models.hooks import inputs_of
from safeedit.models.segment import Segment
from safeedit.models.tokens import Batch, pad

CHUNK = 4096
"""Inputs compared with all keys at a time."""
LEAST = 1e-5
"""The least distance from a name that means anything: cosines are rounded."""
STRAY = 1e-3
"""Share of what stands in texts that may read as a behaviour: a model that misbehaves does so there, too."""
STRAGGLERS = 0.02
"""Share of a behaviour's own inputs that may lie nearer to others than those from which a limit is taken."""
SAME = 1e-3
"""Difference of cosines that tells nothing: a name that begins like another one has its very inputs."""
ROUNDED = 1e-5
"""Difference of names, beside the length of the inputs, that may be nothing but rounding."""


@dataclass(frozen=True)
class Space:
    """A linear projection of inputs, in which directions are compared."""

    basis: Tensor
    """(width, inner)."""
    shift: Tensor
    """(width,) what the middle of all inputs is projected to."""

    def of(self, inputs: Tensor) -> Tensor:
        """(inputs, width) unit vectors for (inputs, inner)."""
        return normalize(inputs.float() @ self.basis.T - self.shift, dim=-1)


def find_space(inputs: Tensor, names: Tensor, width: int, ridge: float) -> Space:
    """The discriminant projection for inputs of several names, several of each.

    Args:
        inputs: (inputs, inner), float32.
        names: (inputs,) whose each is, counted from 0.
        width: directions kept, at most.
        ridge: added to the variation within names, in units of its mean variance.

    Raises:
        EditorError: an input is not finite, none differs from the others, or names do not differ in two
            directions at least.
    """
    if not bool(torch.isfinite(inputs).all()):
        raise EditorError("an input of the edited module is not finite")
    middle = inputs.mean(0)
    spread = inputs - middle
    # All that can tell these inputs apart lies in their span, which may be much smaller than the space.
    span = torch.linalg.qr(spread.T).Q if len(inputs) < inputs.shape[1] else None
    spread = spread if span is None else spread @ span
    means = centres(spread, names)
    within = spread - means[names]
    scatter = within.T @ within / len(inputs)
    total = float(spread.square().mean())
    if not total > 0:
        raise EditorError("all inputs of the edited module are the same; nothing tells the edits apart")
    length = float(inputs.square().sum(1).mean().sqrt())
    if not float(torch.linalg.vector_norm(means, dim=1).max()) > ROUNDED * length:
        raise EditorError(
            "names do not differ in what the edited module takes, so that nothing tells them from other "
            "inputs; have them compared with invented ones (anchors: 1 or more)"
        )
    # Where names hardly vary at all (one prompt of each), their differences set the scale instead.
    size = max(float(scatter.diagonal().mean()), 1e-3 * total)
    scatter.diagonal().add_(ridge * size)
    factor = torch.linalg.cholesky(scatter)
    white = torch.linalg.solve_triangular(factor, means.T, upper=False)  # (span, names)
    left, strength, _ = torch.linalg.svd(white, full_matrices=False)
    kept = left[:, : min(width, int((strength > 1e-4 * strength[0]).sum()))]
    if kept.shape[1] < 2:
        # On a line a cosine is 1 or -1, for whatever there is.
        raise EditorError(
            "names differ in a single direction, in which every input is one of them; have them compared "
            "with invented ones (anchors: 1 or more), and in several directions (width: 2 or more)"
        )
    basis = torch.linalg.solve_triangular(factor.T, kept, upper=True).T
    basis = basis if span is None else basis @ span.T
    return Space(basis.contiguous(), basis @ middle)


def centres(inputs: Tensor, names: Tensor) -> Tensor:
    """(names, width) the mean input of each name."""
    count = int(names.max()) + 1
    sums = torch.zeros(count, inputs.shape[1], device=inputs.device).index_add_(0, names, inputs)
    return sums / torch.bincount(names, minlength=count).clamp(min=1)[:, None]


def of_one_kind(own: Tensor, others: Tensor, ridge: float, room: float) -> dict[str, Tensor]:
    """The parts of a memory that route inputs of one kind: a filter, and a limit on what it reads.

    Args:
        own: (own, inner) float32, inputs of that kind.
        others: (others, inner) those that are none, but for a share of `STRAY`.
        ridge: see `find_filter`.
        room: share of the way from the kind's own readings to the others' at which the limit lies.

    Raises:
        EditorError: the kind cannot be told from the others.
    """
    reading = find_filter(own, others, ridge)
    near = float((own @ reading).quantile(STRAGGLERS))
    far = float((others @ reading).quantile(1 - STRAY).clamp(min=0)) if len(others) else 0.0
    if not near > far:
        raise EditorError("prompts of the behaviours cannot be told from harmless ones in this block")
    limit = near - room * (near - far)
    # Beside a number that is always the limit, a reading is at 45 degrees exactly when it is as large.
    return {
        "basis": torch.stack([reading, torch.zeros_like(reading)], dim=1),
        "shift": reading.new_tensor([0.0, -limit]),
        "keys": reading.new_tensor([[1.0], [0.0]]),
        "limits": reading.new_tensor([0.5**0.5]),
        "owner": reading.new_zeros(1),
    }


def find_filter(own: Tensor, others: Tensor, ridge: float) -> Tensor:
    """(inner,) what reads inputs of one kind as about 1 and all others as about 0, by least squares.

    Both kinds count alike, whatever their numbers.

    Args:
        own: (own, inner), float32.
        others: (others, inner).
        ridge: added to their second moments, in units of the mean diagonal.

    Raises:
        EditorError: an input is not finite, or the system has no solution.
    """
    moment = own.T @ own / len(own)
    if len(others):
        moment = moment + others.T @ others / len(others)
    size = moment.diagonal().mean()
    if not bool(torch.isfinite(moment).all()) or not size > 0:
        raise EditorError("an input of the edited module is not finite, or all are zero")
    moment.diagonal().add_(ridge * size)
    found: Tensor = torch.cholesky_solve(own.mean(0)[:, None], cholesky(moment))[:, 0]
    return found


@torch.no_grad()
def highest(keys: Tensor, found: Tensor, below: Tensor, names: Tensor | None = None) -> Tensor:
    """(keys,) the highest cosine of any of `found` to each key, among those below that key's bound.

    Args:
        keys: (keys, width) unit vectors.
        found: (inputs, width) unit vectors.
        below: (keys,) what is at least so near cannot be told from the key itself.
        names: (inputs,) the key that each is of itself, and not compared with; None for no key.
    """
    best = torch.full((len(keys),), -1.0, device=keys.device)
    for start in range(0, len(found), CHUNK):
        near = found[start : start + CHUNK] @ keys.T
        near = near.masked_fill(near >= below - SAME, -1.0)
        if names is not None:
            near.scatter_(1, names[start : start + CHUNK, None], -1.0)
        best = torch.maximum(best, near.amax(0))
    return best


def limits_of(own: Tensor, other: Tensor, room: float) -> Tensor:
    """(keys,) the cosine from which an input is taken for a key's name.

    Between the lowest that the name itself has and the highest that anything else has. Distances are divided
    by their logarithms: how near a name is to itself differs by orders of magnitude between models, and so
    does how far phrasings that were not seen are.

    Args:
        own: (keys,) lowest cosine of the name's own inputs.
        other: (keys,) highest cosine of inputs that shall not be routed.
        room: share of the way from the name to the others that is the name's.

    Raises:
        EditorError: a limit is not positive, so that about half of all inputs there are would be above it.
    """
    near = (1 - own).clamp(min=LEAST)
    far = torch.maximum(1 - other, near)
    limits = 1 - near ** (1 - room) * far**room
    if not bool((limits > 0).all()):
        raise EditorError(
            "a name is not nearer to itself than half of all other inputs are; have it compared with more "
            "invented ones (anchors: 1 or more), or choose another layer or a smaller room"
        )
    return limits


@torch.no_grad()
def pivot_inputs(segment: Segment, layer: int, rows: Sequence[Row], fill: int) -> Tensor:
    """(rows, inner) float32: what the down-projection of block `layer` takes at the rows' pivots."""
    texts = [row.ids[: row.pivot + 1] for row in rows]
    return torch.cat([taken[:, -1] for _, taken in _runs(segment, layer, texts, fill)])


@torch.no_grad()
def token_inputs(segment: Segment, layer: int, texts: Sequence[Sequence[int]], fill: int) -> Tensor:
    """(tokens, inner) float32: what it takes at every token of some texts."""
    return torch.cat([x[batch.attention_mask.bool()] for batch, x in _runs(segment, layer, texts, fill)])


def _runs(
    segment: Segment, layer: int, texts: Sequence[Sequence[int]], fill: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of texts in order, padded on the left, and what the module takes in each."""
    module, device = segment.decoder.projections[layer].module, segment.decoder.device
    for start in range(0, len(texts), BATCH):
        batch = pad(texts[start : start + BATCH], fill, "left").to(device)
        seen: list[Tensor] = []
        with inputs_of(module, seen.append):
            segment.run(batch, stop=layer + 1)
        yield batch, seen[0].float()
