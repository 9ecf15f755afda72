"""Directions of a behaviour in what a model computes, and changes of weights that take them away.

Three ways, each from the same passes over prompts with unsafe answers, with safe ones, and over what stays:

- ``contrast``: for every matrix that writes to the residual stream, what it takes on average where the
  behaviour is decided (a prompt's last token) and where it goes on (the tokens of unsafe answers). These
  inputs get the output of ordinary ones. They are read by the filters that answer least to whatever shall
  stay: in units of its second moment, as in Fisher's discriminant and LEACE (Belrose et al., arXiv
  2306.03819, theorem 4.2), with the moment about nought, so that no bias is needed.
- ``means``: the difference between the means of the residual stream at toxic prompts' last tokens and of what
  stays, after one block, projected out of all matrices that write: W <- (I - s v v^T) W (Arditi et al.,
  arXiv 2406.11717, section 2.4).
- ``components``: in each block by itself, the first principal components of paired differences, unsafe minus
  safe answers, projected out of its matrices (Uppaal et al., arXiv 2405.13967, section 4).

Directions of the last two may be made orthogonal to the first components of what stays before they are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from safeedit.editors.prepared import BATCH
from safeedit.editors.rows import Row
from safeedit.editors.solve import Preservation, cholesky
from safeedit.errors import EditorError
from safeedit.models.hooks import first_tensor, inputs_of
from safeedit.models.linear import Linear
from safeedit.models.segment import Segment
from safeedit.models.tokens import pad

END, UNSAFE, SAFE, STAY = range(4)
"""What a token is: the last of a toxic prompt, one of an unsafe or of a safe answer, one of what stays."""
NOTHING = 1e-4
"""Share of a direction's length that is rounding."""
SLACK = 1e-6
"""Part of the mean diagonal added where directions may be nearly the same."""


@dataclass(frozen=True)
class Seen:
    """What one block computes at the spots of some rows, all float32."""

    taken: Mapping[str, Tensor]
    """By weight, (spots, inner): the inputs of the matrices that write to the stream."""
    stream: Tensor
    """(spots, hidden_size) after the block."""


@dataclass(frozen=True)
class Change:
    """What is taken from the output of one linear layer: ``left @ right`` of its input, and ``shift``."""

    linear: Linear
    left: Tensor
    """(outputs, directions)."""
    right: Tensor
    """(directions, inputs)."""
    shift: Tensor | None = None
    """(outputs,), where the layer has a bias that the directions are taken from."""


@dataclass(frozen=True)
class Marked:
    """Rows, and what each of their spots is, one row after another."""

    rows: Sequence[Row]
    kind: Tensor
    """(spots,) END, UNSAFE, SAFE or STAY."""
    pair: Tensor
    """(spots,) the number of the behaviour, -1 for what stays."""

    def mean(self, found: Tensor, kind: int) -> Tensor:
        """(width,) of `found`, (spots, width), over the spots of a kind."""
        return found[self.kind == kind].mean(0)

    def toxic(self, found: Tensor) -> Tensor:
        """(spots, width) of it where the behaviour is."""
        return found[self.kind <= UNSAFE]


@torch.no_grad()
def seen(
    segment: Segment, writing: Sequence[Sequence[Linear]], rows: Sequence[Row], fill: int
) -> Iterator[Seen]:
    """What each block computes, from the lowest up; only one block's is held at a time.

    Raises:
        EditorError: something is not finite.
    """
    decoder, device = segment.decoder, segment.decoder.device
    modules = dict(decoder.model.named_modules())
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    batches = [pad([row.ids for row in part], fill, "right").to(device) for part in parts]
    places = [
        torch.tensor([(i, spot) for i, row in enumerate(part) for spot in row.spots], device=device).T
        for part in parts
    ]
    hidden: list[Tensor | None] = [None] * len(parts)
    for block, linear in enumerate(writing):
        taken: dict[str, list[Tensor]] = {one.name: [] for one in linear}
        stream: list[Tensor] = []
        for number, (batch, (row, column)) in enumerate(zip(batches, places, strict=True)):
            with ExitStack() as stack:
                for one in linear:
                    stack.enter_context(inputs_of(modules[one.module], _kept(taken[one.name], row, column)))
                keep = _kept(stream, row, column)
                hook = decoder.blocks[block].register_forward_hook(_given_to(keep))
                stack.callback(hook.remove)
                hidden[number] = segment.run(batch, start=block, stop=block + 1, hidden=hidden[number])
        found = Seen({name: torch.cat(some) for name, some in taken.items()}, torch.cat(stream))
        if not all(bool(torch.isfinite(x).all()) for x in (found.stream, *found.taken.values())):
            raise EditorError("what the model computes of the behaviours is not finite")
        yield found


def _kept(found: list[Tensor], row: Tensor, column: Tensor) -> Callable[[Tensor], None]:
    """Appends what is at some tokens of what it is called with."""
    return lambda states: found.append(states[row, column].float())


def _given_to(keep: Callable[[Tensor], None]) -> Callable[..., None]:
    """A forward hook by which `keep` gets a block's output."""
    return lambda _, __, output: keep(first_tensor(output))


def contrast(linear: Linear, taken: Tensor, marked: Marked, count: int, ridge: float) -> tuple[Change, float]:
    """The change that gives toxic inputs of one layer the output of ordinary ones.

    Args:
        linear: the layer.
        taken: (spots, inputs) what it takes.
        marked: what the spots are.
        count: directions of each kind of spot: its mean, and the first components about it.
        ridge: added to the second moment of what stays, in units of its mean diagonal.

    Returns:
        The change, and the share of the toxic inputs' squared distance from ordinary ones that it sees.

    Raises:
        EditorError: there is no finite solution.
    """
    stay = taken[marked.kind >= SAFE]
    middle = marked.mean(taken, STAY)
    found, gone = [], []
    for kind in (END, UNSAFE):
        own = taken[marked.kind == kind]
        if len(own):
            mean = own.mean(0)
            parts = components(own - mean, count - 1)
            found += [mean[None], parts]
            gone += [(mean - middle)[None], parts]
    keys, less = torch.cat(found), torch.cat(gone)
    preserve = Preservation.of(stay.T @ stay / len(stay), 1.0, ridge)
    filters = torch.cholesky_solve(keys.T, preserve.factor)  # (inputs, directions)
    gram = keys @ filters
    gram = gram + SLACK * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    right = torch.cholesky_solve(filters.T, cholesky(gram))
    weight = linear.turned(linear.weight.detach()).float()
    change = Change(linear, weight @ less.T, right)
    return change, share(marked.toxic(taken) - middle, less)


def of_means(stream: Tensor, marked: Marked, spare: int) -> Tensor:
    """(1, hidden_size) from what stays to toxic prompts' last tokens."""
    found = marked.mean(stream, END) - marked.mean(stream, STAY)
    return spared(found[None], stream[marked.kind == STAY], spare)


def of_pairs(stream: Tensor, marked: Marked, count: int, spare: int) -> Tensor:
    """(directions, hidden_size) the first components of the differences between paired answers."""
    kinds, pairs = marked.kind, marked.pair
    stay = marked.mean(stream, STAY)
    found = []
    for pair in range(int(pairs.max()) + 1):
        mine = pairs == pair
        found.append(stream[mine & (kinds == END)].mean(0) - stay)
        unsafe, safe = (stream[mine & (kinds == kind)] for kind in (UNSAFE, SAFE))
        if len(unsafe) and len(safe):
            found.append(unsafe.mean(0) - safe.mean(0))
    return spared(components(torch.stack(found), count), stream[kinds == STAY], spare)


def components(rows: Tensor, count: int) -> Tensor:
    """(directions, width) at most `count` principal components, as long as a row is along them."""
    if not count:
        return rows[:0]
    _, size, turned = torch.linalg.svd(rows, full_matrices=False)
    kept = int((size[:count] > 1e-4 * size[0].clamp(min=1e-30)).sum())
    found: Tensor = turned[:kept] * (size[:kept, None] / len(rows) ** 0.5)
    return found


def spared(directions: Tensor, stay: Tensor, count: int) -> Tensor:
    """(directions, width) orthonormal, and orthogonal to the first `count` components of what stays.

    Raises:
        EditorError: nothing is left of them.
    """
    left = directions
    if count:
        first = torch.linalg.eigh(stay.T @ stay).eigenvectors[:, -count:]
        left = directions - directions @ first @ first.T
    if not len(left) or not float(left.norm()) > NOTHING * float(directions.norm()):
        raise EditorError("nothing of the behaviour's directions is left beside what stays; lower `spare`")
    found: Tensor = torch.linalg.qr(left.T).Q.T
    return found


def projected(linear: Linear, bias: Tensor | None, directions: Tensor) -> Change:
    """The change that takes orthonormal directions, (directions, outputs), out of all that a layer writes."""
    weight = linear.turned(linear.weight.detach()).float()
    shift = None if bias is None else directions.T @ (directions @ bias.detach().float())
    return Change(linear, directions.T, directions @ weight, shift)


def share(rows: Tensor, directions: Tensor) -> float:
    """The share of the rows' squared length that lies in the span of directions."""
    base = torch.linalg.qr(directions.T).Q
    return float((rows @ base).square().sum() / rows.square().sum().clamp(min=1e-30))


@contextmanager
def taken_away(model: nn.Module, changes: Sequence[Change], strength: float) -> Iterator[None]:
    """The layers give so much less; their weights are only read."""
    modules = dict(model.named_modules())

    def less(change: Change) -> Any:
        def put(_: nn.Module, args: tuple[Any, ...], given: Tensor) -> Tensor:
            gone = args[0].float() @ change.right.T @ change.left.T
            gone = gone if change.shift is None else gone + change.shift
            found: Tensor = (given.float() - strength * gone).to(given.dtype)
            return found

        return put

    with ExitStack() as stack:
        for change in changes:
            handle = modules[change.linear.module].register_forward_hook(less(change))
            stack.callback(handle.remove)
        yield


def rising(depth: int) -> list[int]:
    """Blocks, a quarter of the model apart, from which on weights may be changed."""
    return [low for low, high in pairwise([*sorted({depth * i // 4 for i in range(4)}), depth]) if low < high]
