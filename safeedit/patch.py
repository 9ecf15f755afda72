"""What an edit changed, as a value: deltas by tensor name, memories by module, for one base model.

A patch is made against the digest of a model and is applied to that model only. Arithmetic is in
float32 and cast once to the weight's own type; the original tensors are kept while a patch is on,
because subtracting a delta does not undo adding it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from safeedit.applied import Applied, Realised, marks, memory_digests, module_of, named_tensors
from safeedit.canonical import canonical_json
from safeedit.deltas import DenseDelta, LowRankDelta, WeightDelta, add
from safeedit.errors import EditorError, IntegrityError, ModelError, SafeEditError, UsageError
from safeedit.memories import KINDS, Memory, MemoryHeader
from safeedit.tensors.atomic import atomic_path, atomic_write
from safeedit.tensors.digest import named_digests, root_digest, tensor_digest

__all__ = ["Applied", "DenseDelta", "LowRankDelta", "Patch", "Realised", "WeightDelta"]

Check = Literal["full", "tensors", "none"]

WEIGHTS, HEADER = "patch.safetensors", "patch.json"
_FORMAT = "safeedit.patch/1"


@dataclass(frozen=True, eq=False)
class Patch:
    """All that one edit changed. Made by `Patch.of`; equal where the digests are.

    Raises:
        EditorError: it holds a number that is not finite, or parameters that JSON has not.
    """

    deltas: Mapping[str, WeightDelta]
    """By the name that the tensor has in the model (the first one, of a tied tensor)."""
    base_digest: str
    """`model_digest` of the model that it is for."""
    base_tensors: Mapping[str, str]
    """`tensor_digest` of each tensor that it changes, or at whose module a memory is, before the change."""
    editor: str
    params: Mapping[str, Any] = field(default_factory=dict)
    """Every hyperparameter of the editor; written in the open, so nothing of a request."""
    meta: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the editor reports."""
    edited_digest: str | None = None
    """`Applied.digest` of the model with the patch on, where that was recorded."""
    memories: Mapping[str, Memory] = field(default_factory=dict)
    """By the name that the weight of the module has at which the memory is put."""

    def __post_init__(self) -> None:
        try:
            copied = json.loads(canonical_json({"params": self.params, "meta": self.meta}))
        except ValueError as error:
            raise EditorError(f"the patch's parameters and figures cannot be stored: {error}") from None
        if not all(type(value) in (int, float) for value in copied["meta"].values()):
            raise EditorError("the figures that an editor reports with a patch are numbers only")
        if self.deltas.keys() | self.memories.keys() != self.base_tensors.keys():
            raise EditorError("a patch names the digest of every tensor that it changes, and of no other")
        object.__setattr__(self, "params", copied["params"])
        object.__setattr__(self, "meta", copied["meta"])
        object.__setattr__(self, "deltas", dict(sorted(self.deltas.items())))
        object.__setattr__(self, "memories", dict(sorted(self.memories.items())))
        object.__setattr__(self, "base_tensors", dict(sorted(self.base_tensors.items())))

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        deltas: Mapping[str, WeightDelta],
        *,
        editor: str,
        params: Mapping[str, Any] | None = None,
        meta: Mapping[str, float] | None = None,
        digests: Mapping[str, str] | None = None,
        memories: Mapping[str, Memory] | None = None,
    ) -> Patch:
        """The patch for `model` as it is now, which is not changed.

        Args:
            model: the model that the deltas were computed for.
            deltas: by tensor name; a tied tensor may go by any of its names, but by one only.
            editor: name of the editor.
            params: its hyperparameters.
            meta: numbers that it reports.
            digests: `named_digests(model)`, if the caller has it already.
            memories: by the name of the weight of the module at which each shall be put.

        Raises:
            EditorError: a name that the model has not, a shape that is not the tensor's, two deltas
                for one tied tensor, a memory for a module of another shape.
            ModelError: the tensor is not of a floating-point type.
        """
        tensors = named_tensors(model)
        named: dict[str, WeightDelta] = {}
        for name, delta in deltas.items():
            if name not in tensors:
                raise EditorError(f"the model has no tensor {name}")
            first = _first_name(tensors, name)
            if first in named:
                raise EditorError(f"{name} is another name of {first}, which has a delta already")
            _check_shape(name, tensors[name], delta, EditorError)
            named[first] = delta
        memories = memories or {}
        for name, memory in memories.items():
            if name not in tensors:
                raise EditorError(f"the model has no tensor {name}")
            _check_module(name, model, memory, EditorError)
        digests = named_digests(model) if digests is None else digests
        touched = {**named, **memories}
        unsaved = [name for name in touched if name not in digests]
        if unsaved:
            raise EditorError(f"{unsaved[0]} is not saved with the model, so a patch cannot change it")
        return cls(
            named,
            root_digest({**digests, **memory_digests(model)}),
            {name: digests[name] for name in touched},
            editor,
            params or {},
            meta or {},
            memories=memories,
        )

    @classmethod
    def stack(cls, first: Patch, second: Patch) -> Patch:
        """One patch for what `first` and then `second` do; equal up to rounding.

        Raises:
            UsageError: what `first` makes of its base was not recorded (`with_edited_digest`), or both
                have a memory at one module.
            IntegrityError: `second` is for another model than that.
        """
        if first.edited_digest is None:
            raise UsageError("the first patch does not say which model it makes; apply it and record that")
        if first.edited_digest != second.base_digest:
            raise IntegrityError("the second patch is not for the model that the first one makes")
        both = sorted(first.memories.keys() & second.memories.keys())
        if both:
            raise UsageError(f"both patches have a memory at the module of {both[0]}; edit for both at once")
        deltas = dict(first.deltas)
        for name, delta in second.deltas.items():
            deltas[name] = add(deltas[name], delta) if name in deltas else delta
        return cls(
            deltas,
            first.base_digest,
            {**second.base_tensors, **first.base_tensors},
            f"{first.editor}+{second.editor}",
            {"first": first.params, "second": second.params},
            {f"first.{key}": value for key, value in first.meta.items()}
            | {f"second.{key}": value for key, value in second.meta.items()},
            memories={**first.memories, **second.memories},
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything in the patch, names, types and shapes included."""
        return hashlib.sha256(b"safeedit:patch:1\0" + canonical_json(self._header())).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patch) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        memories = f", memories at {len(self.memories)}" if self.memories else ""
        return f"<Patch {self.editor}: {len(self.deltas)} tensors{memories} of base {self.base_digest[:12]}>"

    def with_edited_digest(self, digest: str) -> Patch:
        """The same patch, with the digest of the model that it makes (`Applied.digest`)."""
        return replace(self, edited_digest=digest)

    def apply(self, model: torch.nn.Module, *, check: Check = "full") -> Applied:
        """Change the weights of `model` in place and put memories at it, all or, on any error, none.

        Args:
            model: the base model; tied weights stay tied.
            check: compare the digest of the whole model with the base (`full`), of the changed
                tensors only (`tensors`), or trust the caller (`none`).

        Raises:
            UsageError: the patch is on already.
            IntegrityError: the model is not the base.
            EditorError: a weight would become infinite in its type.
        """
        self._check_base(model, check)
        return Applied.make(model, self.deltas, self._mark, self.memories)

    @contextmanager
    def applied(self, model: torch.nn.Module, *, check: Check = "full") -> Iterator[Applied]:
        """The patch is on inside the block and off after it, bit for bit, whatever happens inside."""
        applied = self.apply(model, check=check)
        try:
            yield applied
        finally:
            applied.revert()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `patch.safetensors` and `patch.json`; a kill leaves a whole patch or none."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        # Without its header a half-replaced patch is no patch, rather than a damaged one.
        (target / HEADER).unlink(missing_ok=True)
        tensors = {
            f"{name}|{part}": tensor
            for name, delta in self.deltas.items()
            for part, tensor in delta.tensors().items()
        }
        for name, memory in self.memories.items():
            tensors |= {f"memory|{name}|{part}": tensor for part, tensor in memory.tensors.items()}
        with atomic_path(target / WEIGHTS) as temporary:
            save_file(tensors, temporary)
        header = {**self._header(), "digest": self.digest}
        atomic_write(target / HEADER, json.dumps(header, indent=2, allow_nan=False) + "\n")
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Patch:
        """The patch saved in `folder`, its digest checked.

        Raises:
            UsageError: there is no patch.
            IntegrityError: its files are damaged, or do not belong together.
        """
        source = Path(folder)
        if not (source / HEADER).is_file():
            raise UsageError(f"{source} is no patch: it has no {HEADER}")
        try:
            patch, digest = _read(source)
        except (OSError, ValueError, KeyError, SafetensorError, EditorError) as error:
            raise IntegrityError(f"{source}: the patch is damaged ({type(error).__name__})") from None
        if patch.digest != digest:
            raise IntegrityError(f"{source}: the patch was changed: its digest is not the recorded one")
        return patch

    def _header(self) -> dict[str, Any]:
        header: dict[str, Any] = {
            "format": _FORMAT,
            "editor": self.editor,
            "params": self.params,
            "meta": self.meta,
            "base_digest": self.base_digest,
            "edited_digest": self.edited_digest,
            "deltas": {name: self._describe(name, delta) for name, delta in self.deltas.items()},
        }
        if self.memories:
            header["memories"] = {
                name: {"base": self.base_tensors[name], **memory.describe()}
                for name, memory in self.memories.items()
            }
        return header

    def _describe(self, name: str, delta: WeightDelta) -> dict[str, Any]:
        low_rank = isinstance(delta, LowRankDelta)
        return {
            "kind": "low-rank" if low_rank else "dense",
            "shape": list(delta.shape),
            "transposed": delta.transposed if isinstance(delta, LowRankDelta) else False,
            "base": self.base_tensors[name],
            "digests": {part: tensor_digest(tensor) for part, tensor in delta.tensors().items()},
        }

    def _check_base(self, model: torch.nn.Module, check: Check) -> None:
        tensors = named_tensors(model)
        if self._mark in marks(model):
            raise UsageError("this patch is on the model already")
        for name, delta in self.deltas.items():
            if name not in tensors:
                raise IntegrityError(f"the model is not the patch's base: it has no tensor {name}")
            _check_shape(name, tensors[name], delta, IntegrityError)
        for name, memory in self.memories.items():
            if name not in tensors:
                raise IntegrityError(f"the model is not the patch's base: it has no tensor {name}")
            _check_module(name, model, memory, IntegrityError)
        owners = [_first_name(tensors, name) for name in self.deltas]
        if len(set(owners)) != len(owners):
            raise IntegrityError("the model is not the patch's base: it ties tensors that the base does not")
        if check == "none":
            return
        looked_at = model if check == "full" else {name: tensors[name] for name in self.base_tensors}
        digests = {**named_digests(looked_at), **memory_digests(model)}
        if check == "full" and root_digest(digests) == self.edited_digest and self.base_tensors:
            raise UsageError("this patch is on the model already")
        wrong = [name for name, digest in self.base_tensors.items() if digests.get(name) != digest]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise IntegrityError(
                f"the model is not the patch's base: {wrong[0]}{more} differs (or has another dtype)"
            )
        if check == "full" and root_digest(digests) != self.base_digest:
            raise IntegrityError(
                "the model is not the patch's base: a tensor that the patch does not change differs, "
                "or a memory is at the model"
            )

    @cached_property
    def _mark(self) -> str:
        return self.digest if self.edited_digest is None else replace(self, edited_digest=None).digest


class _DeltaHeader(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["low-rank", "dense"]
    shape: list[int]
    transposed: bool
    base: str
    digests: dict[str, str]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["safeedit.patch/1"]
    editor: str
    params: dict[str, Any]
    meta: dict[str, int | float]
    base_digest: str
    edited_digest: str | None
    deltas: dict[str, _DeltaHeader]
    memories: dict[str, MemoryHeader] = {}
    digest: str


def _read(source: Path) -> tuple[Patch, str]:
    header = _Header.model_validate_json((source / HEADER).read_bytes())
    tensors = load_file(source / WEIGHTS)
    deltas: dict[str, WeightDelta] = {}
    for name, one in header.deltas.items():
        if one.kind == "dense":
            deltas[name] = DenseDelta(tensors.pop(f"{name}|dense"))
        else:
            left, right = tensors.pop(f"{name}|left"), tensors.pop(f"{name}|right")
            deltas[name] = LowRankDelta(left, right, one.transposed)
    memories: dict[str, Memory] = {}
    for name, kept in header.memories.items():
        if kept.kind not in KINDS:
            raise IntegrityError(
                f"{source}: the patch has a memory of a kind that this version does not know"
            )
        parts = {part: tensors.pop(f"memory|{name}|{part}") for part in kept.digests}
        memories[name] = KINDS[kept.kind](parts, kept.settings)
    bases = {name: kept.base for name, kept in header.memories.items()}
    bases |= {name: one.base for name, one in header.deltas.items()}
    if tensors:
        raise ValueError("tensors that the header does not name")
    patch = Patch(
        deltas,
        header.base_digest,
        bases,
        header.editor,
        header.params,
        header.meta,
        header.edited_digest,
        memories,
    )
    return patch, header.digest


def _first_name(tensors: Mapping[str, torch.Tensor], name: str) -> str:
    """The first of the names that a tied tensor has."""
    mine = tensors[name]
    same = (other for other, tensor in tensors.items() if tensor is mine or _share(tensor, mine))
    return next(same)


def _share(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.numel() > 0
        and one.data_ptr() == other.data_ptr()
        and one.device == other.device
        and one.shape == other.shape
    )


def _check_module(name: str, model: torch.nn.Module, memory: Memory, error: type[SafeEditError]) -> None:
    if not memory.fits(module_of(model, name)):
        raise error(f"the module of {name} has other widths than the memory for it: {memory!r}")


def _check_shape(name: str, weight: torch.Tensor, delta: WeightDelta, error: type[SafeEditError]) -> None:
    if not weight.is_floating_point():
        raise ModelError(f"{name} is of type {weight.dtype}; only floating-point weights can be patched")
    if tuple(weight.shape) != delta.shape:
        raise error(f"{name} has shape {tuple(weight.shape)}, but the delta for it has {delta.shape}")
