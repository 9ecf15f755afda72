"""WISE's memory (arXiv 2405.14768): other weights of one module, used for the inputs that are routed there.

A side memory is the change W' - W; there may be several. An input is routed either by the direction in
which it lies in a key space (``keys``), or by how far the side memory would move the output, as published
(``activation``). By ``token`` the change acts on routed tokens alone, which needs no state at all. By
``sequence`` it acts on a routed token and all later ones of its row. Which memory a row is at is then
kept for each token in the key-value cache (`models.trail`). Padding is known from the attention mask; it
never routes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from safeedit.errors import EditorError
from safeedit.memory import COARSE, ROUNDING, Hook, Memory, full_precision
from safeedit.models.trail import Trail

DIRECTIONS = 32
"""Directions of the key space in which inputs are looked at first."""
_PARTS = {
    "keys": ("basis", "keys", "limits", "owner", "shift"),
    "activation": ("limits",),
}


class SideMemory(Memory):
    """Changes of one module's weight, each used for the inputs that are routed to it.

    Tensors: either ``change`` (memories, given, taken), or its factors ``left`` (memories, given, rank)
    and ``right`` (memories, rank, taken). Routed by ``activation``: ``limits`` (memories,), the norm of
    a change's output above which it is used; the one furthest above is. Routed by ``keys``: ``basis``
    (taken, width) and ``shift`` (width,) project an input, ``keys`` (width, keys) are unit columns,
    ``limits`` (keys,) the cosines above which an input is a key's, ``owner`` (keys,) whose memory that is.

    Settings: ``router`` (keys, activation) and ``route`` (token, sequence).
    """

    kind: ClassVar[str] = "side-memory"

    def __len__(self) -> int:
        return len(self.tensors["change" if "change" in self.tensors else "left"])

    @property
    def taken(self) -> int:
        """See `Memory.taken`."""
        return self.tensors["change" if "change" in self.tensors else "right"].shape[2]

    @property
    def given(self) -> int:
        """See `Memory.given`."""
        return self.tensors["change" if "change" in self.tensors else "left"].shape[1]

    def check(self) -> None:
        """See `Memory.check`."""
        known = set(self.settings) == {"route", "router"} and self.settings["route"] in ("token", "sequence")
        if not known or self.settings["router"] not in _PARTS:
            raise EditorError("a side memory has two settings: route and router")
        routing = _PARTS[str(self.settings["router"])]
        kept = sorted(set(self.tensors) - set(routing))
        if not set(routing) <= set(self.tensors) or kept not in (["change"], ["left", "right"]):
            raise EditorError("a side memory is a change, whole or in factors, and what routes to it")
        if not self._fit():
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors.items())
            raise EditorError(f"the parts of a side memory do not fit each other: {shapes}")

    def _fit(self) -> bool:
        shape = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if "change" in shape:
            whole = len(shape["change"]) == 3
        else:
            left, right = shape["left"], shape["right"]
            whole = len(left) == len(right) == 3 and left[0] == right[0] and left[2] == right[1]
        if not whole or not len(self):
            return False
        if "keys" not in shape:
            return shape["limits"] == (len(self),)
        width, keys = (*shape["keys"], 0)[:2]
        owner = self.tensors["owner"]
        return (
            shape["keys"] == (width, keys)
            and keys > 0
            and shape["basis"] == (self.taken, width)
            and shape["shift"] == (width,)
            and shape["limits"] == shape["owner"] == (keys,)
            and bool(((owner >= 0) & (owner < len(self)) & (owner == owner.round())).all())
        )

    def moved(self, tensors: Mapping[str, Tensor], taken: Tensor, which: int) -> Tensor:
        """(inputs, given) float32: what memory `which` adds to the output for (inputs, taken)."""
        wide = taken.float()
        if "change" in tensors:
            return wide @ tensors["change"][which].T
        return wide @ tensors["right"][which].T @ tensors["left"][which].T

    @cached_property
    def _quick(self) -> dict[str, Tensor]:
        """What tells quickly that an input is no key's; empty where some limit is too low for that.

        Of an input that is projected to f, a key k with the limit l on its cosine, and some directions
        in which they are s and t: f.k > l|f| needs s.t > l|f| - |f - s||k - t|, which is never less than
        |s| sqrt(l^2 - |k - t|^2), however long f - s is.
        """
        if self.settings["router"] != "keys":
            return {}
        basis, shift, keys, limits = (self.tensors[n].double() for n in ("basis", "shift", "keys", "limits"))
        turn = torch.linalg.svd(keys, full_matrices=False)[0][:, :DIRECTIONS]
        turned = turn.T @ keys
        least = limits.square() - (keys - turn @ turned).square().sum(0)
        if not bool(((limits > 0) & (least > 0.01)).all()):
            return {}
        turned = turned / least.sqrt()
        quick = {"turn": basis @ turn, "back": -(shift @ turn), "turned": turned}
        return {name: tensor.float().contiguous() for name, tensor in quick.items()}

    @cached_property
    def _reach(self) -> tuple[float, float]:
        """What rounding may do to s.t - |s| is in proportion to: for an input of length one, and for zero."""
        basis, shift = (torch.linalg.vector_norm(self.tensors[name]) for name in ("basis", "shift"))
        longest = 1 + torch.linalg.vector_norm(self._quick["turned"], dim=0).max()
        return float(longest * basis), float(longest * shift)

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """See `Memory.on`."""
        return super().on(device) | {name: tensor.to(device) for name, tensor in self._quick.items()}

    def routed(self, tensors: Mapping[str, Tensor], taken: Tensor) -> Tensor:
        """(...,) for each input the memory that it is routed to, counted from 1, or 0.

        Args:
            tensors: the memory's own, with or without what `on` adds.
            taken: (..., taken) inputs.
        """
        return self.as_tensor(self.found(tensors, taken), taken)

    @staticmethod
    def as_tensor(found: Mapping[int, int], taken: Tensor) -> Tensor:
        """What `found` gave for `taken`, as `routed` would."""
        at = [0] * (taken.numel() // taken.shape[-1])
        for row, which in found.items():
            at[row] = which
        return torch.tensor(at, dtype=torch.long, device=taken.device).view(taken.shape[:-1])

    def found(self, tensors: Mapping[str, Tensor], taken: Tensor) -> dict[int, int]:
        """`routed` by the number of the input, of those that are."""
        flat = taken.reshape(-1, taken.shape[-1])
        if flat.requires_grad:
            flat = flat.detach()
        near = self._near(tensors, flat)
        if near is None:
            return {row: which for row, which in enumerate(self._routed(tensors, flat)) if which}
        if not near:
            return {}
        chosen = flat[torch.tensor(near, device=flat.device)]
        at = zip(near, self._routed(tensors, chosen), strict=True)
        return {row: which for row, which in at if which}

    def _near(self, tensors: Mapping[str, Tensor], flat: Tensor) -> list[int] | None:
        """Which of (inputs, taken) may be routed, as nearly none is; None where that cannot be told.

        This runs for every token that is written, and every call of torch is felt there: so they are
        few, and what is small is done in Python.
        """
        if "turned" not in tensors or not len(flat):
            return None
        wide = flat if flat.dtype == torch.float32 else flat.float()
        short = torch.addmm(tensors["back"], wide, tensors["turn"])
        if short.dtype != torch.float32:
            with full_precision(wide.device):
                return self._near(tensors, wide)
        highest = (short @ tensors["turned"]).amax(1).tolist()
        # No input is longer than all of them together.
        size = float(torch.linalg.vector_norm(wide))
        slope, least = self._reach
        slack = (ROUNDING if wide.is_cpu else COARSE) * (slope * size + least)
        # What is no number is let through.
        return [
            row
            for row, (high, parts) in enumerate(zip(highest, short.tolist(), strict=True))
            if not high + slack < math.hypot(*parts)
        ]

    def _routed(self, tensors: Mapping[str, Tensor], flat: Tensor) -> list[int]:
        """(inputs,) `routed` for (inputs, taken)."""
        if self.settings["router"] == "keys":
            place = torch.addmm(tensors["shift"], flat.float(), tensors["basis"], beta=-1)
            if place.dtype != torch.float32:
                with full_precision(flat.device):
                    return self._routed(tensors, flat)
            # Above the limit as a cosine, without dividing: that would be one more pass over all keys.
            size = torch.linalg.vector_norm(place, dim=1, keepdim=True)
            over = torch.addcmul(place @ tensors["keys"], size, tensors["limits"], value=-1.0)
            best, key = (found.tolist() for found in over.max(1))
            return [1 + self._owner[k] if above > 0 else 0 for above, k in zip(best, key, strict=True)]
        norms = [torch.linalg.vector_norm(self.moved(tensors, flat, j), dim=-1) for j in range(len(self))]
        best, at = (found.tolist() for found in (torch.stack(norms, -1) - tensors["limits"]).max(1))
        return [1 + which if above > 0 else 0 for above, which in zip(best, at, strict=True)]

    @cached_property
    def _owner(self) -> list[int]:
        return [int(owner) for owner in self.tensors["owner"].tolist()]

    def output(self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor) -> Tensor:
        """See `Memory.output`; for tokens by themselves."""
        return self._answered(tensors, taken, given, self.found(tensors, taken))

    def answered(self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor, at: Tensor) -> Tensor:
        """`given` with what the memories of `at` add to it; itself where none does.

        Args:
            tensors: the memory's own.
            taken: (..., taken) inputs.
            given: (..., given) the module's own outputs.
            at: as `routed` gives it, of any shape.
        """
        found = {row: which for row, which in enumerate(at.reshape(-1).tolist()) if which}
        return self._answered(tensors, taken, given, found)

    def _answered(
        self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor, found: Mapping[int, int]
    ) -> Tensor:
        """`answered`, with the memories by the number of the input."""
        if not found:
            return given
        rows: dict[int, list[int]] = {}
        for row, which in found.items():
            rows.setdefault(which, []).append(row)
        flat, inputs = given.reshape(-1, given.shape[-1]).clone(), taken.reshape(-1, taken.shape[-1])
        for which, mine in sorted(rows.items()):
            index = torch.tensor(mine, device=given.device)
            moved = self.moved(tensors, inputs[index], which - 1)
            if flat.dtype == moved.dtype:
                flat.index_add_(0, index, moved)
            else:
                flat[index] = (flat[index].float() + moved).to(given.dtype)
        return flat.view_as(given)

    def attach(self, module: nn.Module) -> Callable[[], None]:
        """See `Memory.attach`.

        Raises:
            EditorError: it is routed by sequence, so that it has to be `put` at a module of a model.
        """
        if self.settings["route"] == "sequence":
            raise EditorError("a side memory that is routed by sequence is put at a whole model")
        return super().attach(module)

    def put(self, module: nn.Module, model: nn.Module) -> Callable[[], None]:
        """See `Memory.put`."""
        if self.settings["route"] == "token":
            return self.attach(module)
        base = getattr(model, "base_model", model)
        name = next((name for name, each in base.named_modules() if each is module), "")
        return _Sequences(self, name).attach(module, base)


class _Call(threading.local):
    """What is known of the forward pass that a thread is in."""

    mask: Any = None
    cache: Any = None
    at: Tensor | None = None
    quiet: bool = False


class _Sequences(Hook):
    """A memory at work on whole sequences, at the module `name`."""

    memory: SideMemory

    def __init__(self, memory: SideMemory, name: str) -> None:
        super().__init__(memory)
        # By what it is and where, so that a copy of the model finds it in a copy of the cache.
        self.owner = f"{memory.digest()} {name}"
        self.call = _Call()

    def __getstate__(self) -> dict[str, Any]:
        """All but the forward pass that is under way: a copy is in none."""
        return {name: value for name, value in self.__dict__.items() if name != "call"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        self.__dict__.update(state)
        self.call = _Call()

    def attach(self, module: nn.Module, base: nn.Module) -> Callable[[], None]:
        handles = [
            base.register_forward_pre_hook(self._begin, with_kwargs=True),
            module.register_forward_hook(self, with_kwargs=True),
            base.register_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.call.mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.call.cache = kwargs.get("past_key_values")
        self.call.at = None

    def output(self, taken: Tensor, given: Tensor) -> Tensor:
        """See `Hook.output`."""
        tensors, before = self.tensors(taken.device), self._trail()
        routed = self.memory.found(tensors, taken)
        self.call.quiet = not routed
        found = self.memory.as_tensor(routed, taken)  # (rows, tokens)
        real = _real(self.call.mask, found.shape[1]) if routed else None
        if real is not None:
            found = found * real
        self.call.at = found
        if self.call.quiet and (before is None or before.quiet):
            return given
        whole = found if before is None else torch.cat([before.keys[:, 0, :, 0].long(), found], dim=1)
        # The last token so far that was routed decides.
        places = torch.arange(whole.shape[1], device=whole.device).expand_as(whole)
        last = torch.where(whole > 0, places, 0).cummax(dim=1).values
        return self.memory.answered(tensors, taken, given, whole.gather(1, last)[:, -found.shape[1] :])

    def _trail(self) -> Trail | None:
        layers = getattr(self.call.cache, "layers", ())
        found = next((layer for layer in layers if self._mine(layer)), None)
        return found if found is not None and found.get_seq_length() else None

    def _mine(self, layer: Any) -> bool:
        return isinstance(layer, Trail) and layer.owner == self.owner

    def _end(self, _: nn.Module, __: tuple[Any, ...], ___: dict[str, Any], output: Any) -> None:
        at, cache = self.call.at, self.call.cache
        if cache is None:
            cache = getattr(output, "past_key_values", None)
        if at is not None and isinstance(cache, Cache) and output is not None:
            new = at[:, None, :, None].to(torch.float32)
            before = self._trail()
            if before is not None:
                before.update(new, new)
                before.quiet &= self.call.quiet
            else:
                # Only now, as some caches have no layer before the first pass, and count what they have.
                cache.layers[:] = [layer for layer in cache.layers if not self._mine(layer)]
                cache.layers.append(Trail(self.owner, new, self.call.quiet))
        self.call.mask = self.call.cache = self.call.at = None


def _real(mask: Any, tokens: int) -> Tensor | None:
    """(rows, tokens) which of the last tokens are no padding, by an attention mask; None if it tells nothing.

    Args:
        mask: of columns (rows, columns); or what may attend to what (rows, 1, tokens, columns), in switches
            or in what is added to scores, where padding attends to nothing. Of models whose layers differ
            in how far they see, one of those for each kind of layer.
        tokens: how many.
    """
    if isinstance(mask, dict):
        mask = next((each for each in mask.values() if each is not None), None)
    if not isinstance(mask, Tensor):
        return None
    if mask.dim() == 2:
        return mask[:, -tokens:] != 0
    if mask.dim() != 4:
        return None
    seen = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask != 0
    return seen[:, 0, -tokens:].any(-1)
