"""What is added to one weight: a product of two thin matrices, or a whole tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from safeedit.errors import EditorError


def _owned(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """A float32 copy on the CPU that nobody else can change, free of NaN and infinity."""
    copy = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(copy).all()):
        raise EditorError(f"{what} of the weight change is not finite (NaN or infinity)")
    return copy


@dataclass(frozen=True, eq=False)
class LowRankDelta:
    """`left @ right`, in the shape of the weight itself.

    Raises:
        EditorError: the shapes do not fit each other, or a value is not finite.
    """

    left: torch.Tensor
    """(rows of the weight, rank)"""
    right: torch.Tensor
    """(rank, columns of the weight)"""
    transposed: bool = False
    """Whether the weight is stored (in, out), as GPT-2's Conv1D does; exports need to know."""

    def __post_init__(self) -> None:
        if self.left.dim() != 2 or self.right.dim() != 2 or self.left.shape[1] != self.right.shape[0]:
            shapes = f"{tuple(self.left.shape)} and {tuple(self.right.shape)}"
            raise EditorError(f"the factors of a low-rank change do not fit each other: {shapes}")
        object.__setattr__(self, "left", _owned(self.left, "a factor"))
        object.__setattr__(self, "right", _owned(self.right, "a factor"))

    @classmethod
    def oriented(cls, outputs: torch.Tensor, inputs: torch.Tensor, transposed: bool) -> LowRankDelta:
        """The change whose map is `outputs @ inputs`, laid out as the weight is stored.

        Args:
            outputs: (out, rank).
            inputs: (rank, in).
            transposed: whether the weight is stored (in, out).
        """
        return cls(inputs.T, outputs.T, True) if transposed else cls(outputs, inputs)

    def __repr__(self) -> str:
        return f"<LowRankDelta {self.shape[0]}x{self.shape[1]} of rank {self.rank}>"

    @property
    def rank(self) -> int:
        """How many columns `left` has."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return (self.left.shape[0], self.right.shape[1])

    def dense(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The whole change in float32, computed on `device`."""
        return self.left.to(device) @ self.right.to(device)

    def norm(self) -> float:
        """Frobenius norm, from the factors."""
        left, right = self.left.double(), self.right.double()
        if self.rank > min(self.shape):
            return float((left @ right).norm())
        # trace(R^T L^T L R): rounding can take it a little below zero.
        return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())

    def tensors(self) -> dict[str, torch.Tensor]:
        """What has to be stored, by a name of its own."""
        return {"left": self.left, "right": self.right}


@dataclass(frozen=True, eq=False)
class DenseDelta:
    """A change given in full.

    Raises:
        EditorError: a value is not finite.
    """

    tensor: torch.Tensor
    """In the shape of the weight."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensor", _owned(self.tensor, "a value"))

    def __repr__(self) -> str:
        return f"<DenseDelta {'x'.join(map(str, self.shape))}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return tuple(self.tensor.shape)

    def dense(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The whole change in float32, on `device`."""
        return self.tensor.to(device)

    def norm(self) -> float:
        """Frobenius norm."""
        return float(torch.linalg.vector_norm(self.tensor, dtype=torch.float64))

    def tensors(self) -> dict[str, torch.Tensor]:
        """What has to be stored, by a name of its own."""
        return {"dense": self.tensor}


WeightDelta = LowRankDelta | DenseDelta


def add(first: WeightDelta, second: WeightDelta) -> WeightDelta:
    """The change that is both at once; of low rank while that is the smaller form.

    Raises:
        EditorError: the two are for weights of different shapes.
    """
    if first.shape != second.shape:
        raise EditorError(f"changes for weights of shapes {first.shape} and {second.shape} do not add up")
    if isinstance(first, LowRankDelta) and isinstance(second, LowRankDelta):
        rows, columns = first.shape
        rank = first.rank + second.rank
        if rank * (rows + columns) < rows * columns and first.transposed == second.transposed:
            left = torch.cat([first.left, second.left], dim=1)
            return LowRankDelta(left, torch.cat([first.right, second.right]), first.transposed)
    return DenseDelta(first.dense() + second.dense())
