"""Side memories: what changes a module's output for some inputs, while every weight stays as it is.

A memory is a value like a weight change is: tensors, settings and the name of its kind. While a patch
is on, it sits at one module by a forward hook, so that the module tree, the state dictionary and what
`save_pretrained` writes are those of the base model. What it does depends on the module's input and
output, token by token, so that batches, padding on either side and decoding with a cache need no care.
What a kind has to know of the tokens before (`sidememory`) is kept with the keys and values of attention.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from safeedit.canonical import canonical_json
from safeedit.errors import EditorError
from safeedit.tensors.digest import tensor_digest

Setting = bool | int | float | str
ROUNDING, COARSE = 1e-4, 2e-3
"""More than a product of matrices is off by, relative to the lengths of what is multiplied: in float32, and
in what accelerators may take for it (a mantissa of 10 bits)."""


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Products within are of the type of what is multiplied, also where the rest runs under autocast.

    Whether an input is a key's must not depend on how coarsely the rest is computed.
    """
    return torch.autocast(device.type, enabled=False)


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
            tensors: what `on` gave for the module's device.
            taken: (..., taken) the module's input.
            given: (..., given) what the module itself makes of it.

        Returns:
            Of the shape and type of `given`, and bit for bit `given` for inputs that are not routed.
        """

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """Its tensors on a device, and what is made of them once, so as not to make it for every token."""
        return {name: tensor.to(device) for name, tensor in self.tensors.items()}

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
        return module.register_forward_hook(Hook(self), with_kwargs=True).remove

    def put(self, module: nn.Module, model: nn.Module) -> Callable[[], None]:
        """As `attach`, for a module of `model`; kinds that look at whole sequences need to know that."""
        return self.attach(module)


class Hook:
    """A memory at work, its tensors kept on every device that they were asked for on."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.on: dict[torch.device, dict[str, Tensor]] = {}

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], given: Any) -> Tensor:
        """What the module gives instead."""
        return self.output(args[0] if args else next(iter(kwargs.values())), given)

    def output(self, taken: Tensor, given: Tensor) -> Tensor:
        """The memory's output."""
        return self.memory.output(self.tensors(taken.device), taken, given)

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        """The memory's tensors on a device."""
        found = self.on.get(device)
        if found is None:
            # Made once and used in whatever mode comes later; it is made on the CPU.
            with torch.inference_mode(False), torch.no_grad(), full_precision(torch.device("cpu")):
                found = self.on[device] = self.memory.on(device)
        return found
