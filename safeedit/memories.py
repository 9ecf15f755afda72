"""Side memories: what changes a module's output for some inputs, while every weight stays as it is.

A memory is a value like a weight change is: tensors, settings and the name of its kind. While a patch
is on, it sits at one module by a forward hook, so that the module tree, the state dictionary and what
`save_pretrained` writes are those of the base model. What it does depends on the module's input and
output alone, token by token: no state is kept between calls, so batches, padding on either side and
decoding with a cache need no care.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr
from torch import Tensor, nn

from safeedit.canonical import canonical_json
from safeedit.errors import EditorError
from safeedit.tensors.digest import tensor_digest

Setting = bool | int | float | str

CHUNK = 1024
"""Tokens whose nearest keys are looked up at a time, which bounds the memory that takes."""


@dataclass(frozen=True, eq=False)
class Memory(ABC):
    """Something that sits at a module and may give another output than the module does.

    Raises:
        EditorError: a tensor is not finite or not of the shape that the kind has, or a setting is
            nothing that JSON has a word for.
    """

    tensors: Mapping[str, Tensor]
    """By a name of their own; kept as float32 copies on the CPU."""
    settings: Mapping[str, Setting] = field(default_factory=dict)

    kind: ClassVar[str]
    """What files call this class."""

    def __post_init__(self) -> None:
        tensors = {}
        for name, tensor in sorted(self.tensors.items()):
            copy = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
            if not bool(torch.isfinite(copy).all()):
                raise EditorError(f"{name} of the {self.kind} is not finite (NaN or infinity)")
            tensors[name] = copy
        for name, value in self.settings.items():
            if not isinstance(value, Setting) or (isinstance(value, float) and not math.isfinite(value)):
                raise EditorError(f"setting {name} of the {self.kind} is no finite number, switch or text")
        object.__setattr__(self, "tensors", tensors)
        object.__setattr__(self, "settings", dict(sorted(self.settings.items())))
        self.check()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self.taken} to {self.given}>"

    @property
    @abstractmethod
    def taken(self) -> int:
        """Width of the inputs of the module that it is for."""

    @property
    @abstractmethod
    def given(self) -> int:
        """Width of the outputs of the module that it is for."""

    @abstractmethod
    def check(self) -> None:
        """Refuse tensors and settings that make no memory of this kind.

        Raises:
            EditorError: something is missing, too much, or of another shape.
        """

    @abstractmethod
    def output(self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor) -> Tensor:
        """What the module gives while the memory is at it.

        Args:
            tensors: the memory's own, float32, on the module's device.
            taken: (..., taken) the module's input.
            given: (..., given) what the module itself makes of it.

        Returns:
            Of the shape and type of `given`, and bit for bit `given` for inputs that are not routed.
        """

    def fits(self, module: nn.Module) -> bool:
        """Whether `module` is a linear layer of these widths."""
        weight = getattr(module, "weight", None)
        shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
        conv1d = not isinstance(module, nn.Linear) and shape == (self.taken, self.given)
        return conv1d or shape == (self.given, self.taken)

    def describe(self) -> dict[str, Any]:
        """All that it is, for a header: tensors by their digests."""
        digests = {name: tensor_digest(tensor) for name, tensor in self.tensors.items()}
        return {"kind": self.kind, "settings": dict(self.settings), "digests": digests}

    def digest(self) -> str:
        """SHA-256 over `describe`."""
        return hashlib.sha256(b"safeedit:memory:1\0" + canonical_json(self.describe())).hexdigest()

    def attach(self, module: nn.Module) -> Callable[[], None]:
        """Put it at `module`; what is returned takes it off again, and is harmless the second time."""
        return module.register_forward_hook(_Hook(self), with_kwargs=True).remove


class _Hook:
    """A memory at work, its tensors kept on every device that they were asked for on."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.on: dict[torch.device, dict[str, Tensor]] = {}

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], given: Any) -> Tensor:
        taken = args[0] if args else next(iter(kwargs.values()))
        tensors = self.on.get(taken.device)
        if tensors is None:
            tensors = {name: tensor.to(taken.device) for name, tensor in self.memory.tensors.items()}
            self.on[taken.device] = tensors
        return self.memory.output(tensors, taken, given)


class Codebook(Memory):
    """Keys with radii: an input within the radius of its nearest key gets that key's value as output.

    Tensors: ``keys`` (entries, taken), ``values`` (entries, given), ``radii`` (entries,), in units of
    the Euclidean distance between inputs. No settings. GRACE's memory (arXiv 2211.11031).
    """

    kind: ClassVar[str] = "codebook"

    def __len__(self) -> int:
        return len(self.tensors["radii"])

    @property
    def taken(self) -> int:
        """See `Memory.taken`."""
        return self.tensors["keys"].shape[1]

    @property
    def given(self) -> int:
        """See `Memory.given`."""
        return self.tensors["values"].shape[1]

    def check(self) -> None:
        """See `Memory.check`."""
        if self.settings or list(self.tensors) != ["keys", "radii", "values"]:
            raise EditorError("a codebook is made of keys, values and radii, and has no settings")
        keys, radii, values = (self.tensors[name] for name in ("keys", "radii", "values"))
        if (keys.dim(), values.dim(), radii.dim()) != (2, 2, 1) or not len(keys) == len(values) == len(radii):
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors.items())
            raise EditorError(f"the parts of a codebook do not fit each other: {shapes}")
        if not len(radii) or bool((radii < 0).any()):
            raise EditorError("a codebook has at least one key, and no radius below zero")

    def output(self, tensors: Mapping[str, Tensor], taken: Tensor, given: Tensor) -> Tensor:
        """See `Memory.output`."""
        flat = given.reshape(-1, given.shape[-1])
        index, distance = nearest(taken.reshape(-1, taken.shape[-1]), tensors["keys"])
        routed = distance <= tensors["radii"][index]
        return torch.where(routed[:, None], tensors["values"][index].to(given.dtype), flat).view_as(given)


@torch.no_grad()
def nearest(inputs: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """The key nearest to each input, and how far it is.

    All distances come from one matrix product, which is inexact where they are small; of the two
    nearest the distance is then taken by itself, so that an input that is a key is at distance 0.

    Args:
        inputs: (inputs, width), of any type.
        keys: (keys, width) float32, at least one.

    Returns:
        ``(index, distance)``, both (inputs,); the distance is NaN where the input is not finite.
    """
    found = []
    for part in torch.split(inputs, CHUNK):
        wide = part.float()
        close = torch.cdist(wide, keys).topk(min(2, len(keys)), largest=False).indices  # (part, 2)
        exact = torch.linalg.vector_norm(wide[:, None] - keys[close], dim=-1)
        best = exact.argmin(1, keepdim=True)
        found.append((close.gather(1, best)[:, 0], exact.gather(1, best)[:, 0]))
    if not found:
        return inputs.new_zeros(0, dtype=torch.long), inputs.new_zeros(0, dtype=torch.float32)
    index, distance = (torch.cat(parts) for parts in zip(*found, strict=True))
    return index, distance


class MemoryHeader(BaseModel):
    """What a file's header says of a memory: `Memory.describe` and the digest of its module's weight."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    settings: dict[str, StrictBool | StrictInt | StrictFloat | StrictStr]
    base: str
    digests: dict[str, str]


KINDS: dict[str, type[Memory]] = {kind.kind: kind for kind in (Codebook,)}
"""Every kind that a file may name."""
