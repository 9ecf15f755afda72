"""WISE's memory (arXiv 2405.14768): other weights of one module, used for the inputs that are routed there.

A side memory is the change W' - W; there may be several. An input is routed either by the direction in
which it lies in a key space (``keys``), or by how far the side memory would move the output, as published
(``activation``). By ``token`` the change acts on routed tokens alone, which needs no state at all. By
``sequence`` it acts on a routed token and all later ones of its row. Which memory a row is at is then
kept for each token as one more layer of the key-value cache, so that it goes wherever the row goes: beams
that are reordered, rows that leave a batch, tokens that are taken back, generations that take turns.
Padding is known from the attention mask; it never routes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from safeedit.errors import EditorError
from safeedit.memory import Memory

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

    def routed(self, tensors: Mapping[str, Tensor], taken: Tensor) -> Tensor:
        """(...,) for each input the memory that it is routed to, counted from 1, or 0.

        Args:
            tensors: the memory's own.
            taken: (..., taken) inputs.
        """
        flat = taken.reshape(-1, taken.shape[-1])
        if self.settings["router"] == "keys":
            found = torch.addmm(tensors["shift"], flat.float(), tensors["basis"], beta=-1)
            near = found @ tensors["keys"]
            # Above the limit as a cosine, without dividing: that would be one more pass over all keys.
            size = torch.linalg.vector_norm(found, dim=-1, keepdim=True)
            over = torch.addcmul(near, size, tensors["limits"][None], value=-1.0)
            if near.numel() and float(over.amax()) <= 0:
                # Nearly every token that is written; what follows would cost as much again.
                return torch.zeros(taken.shape[:-1], dtype=torch.long, device=taken.device)
            best, key = over.max(-1)
            at = tensors["owner"][key].long()
        else:
            norms = [torch.linalg.vector_norm(self.moved(tensors, flat, j), dim=-1) for j in range(len(self))]
            best, at = (torch.stack(norms, -1) - tensors["limits"]).max(-1)
        return torch.where(best > 0, at + 1, 0).view(taken.shape[:-1])

    def output(self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor) -> Tensor:
        """See `Memory.output`; for tokens by themselves."""
        return self.answered(tensors, taken, given, self.routed(tensors, taken))

    def answered(self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor, at: Tensor) -> Tensor:
        """`given` with what the memories of `at` add to it; itself where none does.

        Args:
            tensors: the memory's own.
            taken: (..., taken) inputs.
            given: (..., given) the module's own outputs.
            at: (...,) as `routed` gives it.
        """
        flat_at = at.reshape(-1)
        rows = flat_at.nonzero()[:, 0]
        if not len(rows):
            return given
        flat, inputs = given.reshape(-1, given.shape[-1]).clone(), taken.reshape(-1, taken.shape[-1])
        for which in sorted(set(flat_at[rows].tolist())):
            mine = rows[flat_at[rows] == which]
            moved = self.moved(tensors, inputs[mine], which - 1)
            flat[mine] = (flat[mine].float() + moved).to(given.dtype)
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
        return _Sequences(self).attach(module, base)


class _Trail(DynamicLayer):  # type: ignore[misc]
    """In a key-value cache: which side memory each token so far was at, (rows, 1, tokens, 1)."""

    def __init__(self, memory: Memory, at: Tensor) -> None:
        super().__init__()
        self.memory = memory
        self.lazy_initialization(at, at)
        self.keys = self.values = at


class _Call(threading.local):
    """What is known of the forward pass that a thread is in."""

    mask: Tensor | None = None
    cache: Any = None
    at: Tensor | None = None


class _Sequences:
    """A memory at work on whole sequences."""

    def __init__(self, memory: SideMemory) -> None:
        self.memory = memory
        self.call = _Call()
        self.on: dict[torch.device, dict[str, Tensor]] = {}

    def attach(self, module: nn.Module, base: nn.Module) -> Callable[[], None]:
        handles = [
            base.register_forward_pre_hook(self._begin, with_kwargs=True),
            module.register_forward_hook(self._give, with_kwargs=True),
            base.register_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        self.call.mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        self.call.cache = kwargs.get("past_key_values")
        self.call.at = None

    def _give(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], given: Any) -> Tensor:
        taken = args[0] if args else next(iter(kwargs.values()))
        if taken.device not in self.on:
            self.on[taken.device] = {n: t.to(taken.device) for n, t in self.memory.tensors.items()}
        tensors = self.on[taken.device]
        at = self.memory.routed(tensors, taken)  # (rows, tokens)
        if self.call.mask is not None:
            at = at * (self.call.mask[:, -at.shape[1] :] != 0)
        before = self._trail()
        whole = at if before is None else torch.cat([before.keys[:, 0, :, 0].long(), at], dim=1)
        # The last token so far that was routed decides.
        places = torch.arange(whole.shape[1], device=at.device).expand_as(whole)
        last = torch.where(whole > 0, places, 0).cummax(dim=1).values
        self.call.at = at
        return self.memory.answered(tensors, taken, given, whole.gather(1, last)[:, -at.shape[1] :])

    def _trail(self) -> _Trail | None:
        layers = getattr(self.call.cache, "layers", ())
        mine = (layer for layer in layers if isinstance(layer, _Trail) and layer.memory is self.memory)
        found = next(mine, None)
        return found if found is not None and found.get_seq_length() else None

    def _end(self, _: nn.Module, __: tuple[Any, ...], ___: dict[str, Any], output: Any) -> None:
        at, cache = self.call.at, self.call.cache
        if cache is None:
            cache = getattr(output, "past_key_values", None)
        if at is not None and isinstance(cache, Cache) and output is not None:
            new = at[:, None, :, None].to(torch.float32)
            before = self._trail()
            if before is not None:
                before.update(new, new)
            else:
                # Only now, as some caches have no layer before the first pass, and count what they have.
                cache.layers[:] = [
                    x for x in cache.layers if not (isinstance(x, _Trail) and x.memory is self.memory)
                ]
                cache.layers.append(_Trail(self.memory, new))
        self.call.mask = self.call.cache = self.call.at = None
