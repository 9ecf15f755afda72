"""PEFT adapters and patches: the same low-rank changes in two forms (LoRA, arXiv 2106.09685).

An adapter that is written has one rank for all modules, the largest, with zeros for padding, and
alpha equal to it: servers that take PEFT adapters read neither ranks nor alphas by module. Its
files are written and read here, without `peft`: they are a JSON file and a few tensors, and what
would change their meaning is refused by name rather than passed over.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from safeedit.applied import named_tensors
from safeedit.deltas import LowRankDelta, WeightDelta
from safeedit.errors import UsageError
from safeedit.models.linear import Linear, linears
from safeedit.patch import Patch
from safeedit.tensors.atomic import atomic_path, atomic_write

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LOSSLESS = 1e-7
"""What may be lost unasked, relative to a change's norm: less than float32 rounds away."""

_PREFIX = "base_model.model."
_KEY = re.compile(re.escape(_PREFIX) + r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_READ = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "alpha_pattern", "bias", "init_lora_weights"}
)
_IMMATERIAL = frozenset(
    {
        # What the weights are once they are trained does not depend on these.
        "alora_invocation_tokens",
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
    }
)


@dataclass(frozen=True)
class Adapter:
    """A patch's changes as an adapter has them."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    """By module: A (rank, in) and B (out, rank), float32; the change of its map is B A."""
    rank: int
    lost: Mapping[str, float]
    """By module: the Frobenius norm of what truncation left out, relative to that of the change."""
    lost_in_total: float
    """The same over all modules together."""
    transposed: bool
    """Whether a weight is stored (in, out), as GPT-2's Conv1D does."""

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by PEFT's names."""
        found: dict[str, Tensor] = {}
        for module, (into, out) in self.factors.items():
            found[f"{_PREFIX}{module}.lora_A.weight"] = into
            found[f"{_PREFIX}{module}.lora_B.weight"] = out
        return found

    def save(self, folder: Path, base_name: str | None = None, revision: str | None = None) -> None:
        """Write PEFT's two files into a folder that exists.

        Args:
            folder: where.
            base_name: the hub's id of the base model, if it has one.
            revision: and its commit there.
        """
        config = {
            "base_model_name_or_path": base_name,
            "bias": "none",
            "fan_in_fan_out": self.transposed,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.rank,
            "revision": revision,
            "target_modules": sorted(self.factors),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        }
        with atomic_path(folder / WEIGHTS) as temporary:
            save_file(self.tensors(), temporary, {"format": "pt"})
        atomic_write(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def adapter_of(model: torch.nn.Module, patch: Patch, rank: int | None = None) -> Adapter:
    """The adapter that changes `model`, the patch's base, as `patch` does.

    Args:
        model: the base; its weights are not read.
        patch: what shall be put into it.
        rank: what the rank may be at most; by default whatever loses nothing, which whole matrices need
            not have.

    Raises:
        UsageError: the patch holds what no adapter can, or whole matrices and no `rank` is given.
    """
    if patch.memories:
        raise UsageError(
            "the patch holds a memory beside the weights, which no adapter can hold; open the run with "
            "safeedit.load"
        )
    if not patch.deltas:
        raise UsageError("the patch changes no weight, so there is nothing for an adapter to hold")
    layers = {name: _linear(model, name) for name in patch.deltas}
    whole = [name for name, delta in patch.deltas.items() if not isinstance(delta, LowRankDelta)]
    if whole and rank is None:
        raise UsageError(
            f"{len(whole)} of {len(layers)} changes are whole matrices ({whole[0]}); give --rank N (rank=) "
            "to keep the N largest directions of each, what is lost is told; or export a checkpoint (hf)"
        )
    found = {layer.module: _factors(layer, patch.deltas[name], rank) for name, layer in layers.items()}
    width = max(1, *(len(f.into) for f in found.values()))
    lost = math.sqrt(sum(f.lost**2 for f in found.values()))
    norm = math.sqrt(sum(f.norm**2 for f in found.values()))
    return Adapter(
        {module: f.padded(width) for module, f in found.items()},
        width,
        {module: f.lost / f.norm if f.norm else 0.0 for module, f in found.items()},
        lost / norm if norm else 0.0,
        any(layer.transposed for layer in layers.values()),
    )


def from_adapter(
    model: torch.nn.Module, folder: str | os.PathLike[str], digests: Mapping[str, str] | None = None
) -> Patch:
    """The patch for `model` that does what a PEFT LoRA adapter does to it, merged.

    Args:
        model: the adapter's base model, which is not changed.
        folder: where the adapter is, as `peft` saves it.
        digests: `named_digests(model)`, if the caller has it already.

    Raises:
        UsageError: it is no LoRA adapter for this model, or has a part that is no low-rank change.
        EditorError: a value is not finite.
    """
    config, tensors = _read(Path(folder))
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.ndim != 2:
            raise UsageError(f"the adapter holds {key}, which is no low-rank change of a linear layer")
        factors.setdefault(match["module"], {})[match["factor"]] = tensor.float()
    deltas: dict[str, WeightDelta] = {}
    for module, pair in sorted(factors.items()):
        layer = _linear(model, f"{module}.weight")
        into, out = pair.get("A"), pair.get("B")
        if into is None or out is None:
            raise UsageError(f"the adapter is not whole: of {module} it has one factor only")
        if (len(out), into.shape[1]) != (layer.outputs, layer.inputs) or out.shape[1] != len(into):
            raise UsageError(f"the adapter is for another model: {module} has another shape there")
        deltas[layer.name] = LowRankDelta.oriented(
            out * _scaling(config, module, len(into)), into, layer.transposed
        )
    if not deltas:
        raise UsageError("the adapter changes nothing")
    ranks = [len(pair["A"]) for pair in factors.values()]
    return Patch.of(model, deltas, editor="peft", params={"rank": max(ranks)}, digests=digests)


@dataclass(frozen=True)
class _Factors:
    into: Tensor
    out: Tensor
    lost: float
    norm: float

    def padded(self, rank: int) -> tuple[Tensor, Tensor]:
        """With zeros up to `rank`; each owns its memory, as a file needs."""
        more = rank - len(self.into)
        into = torch.nn.functional.pad(self.into, (0, 0, 0, more))
        return into.contiguous(), torch.nn.functional.pad(self.out, (0, more)).contiguous()


def _factors(layer: Linear, delta: WeightDelta, rank: int | None) -> _Factors:
    """B and A of a change, of the least rank that loses nothing, or of `rank` if that is smaller."""
    thin: tuple[Tensor, Tensor] | None = None
    if isinstance(delta, LowRankDelta):
        thin = (delta.right.T, delta.left.T) if layer.transposed else (delta.left, delta.right)
        # The product's singular values are those of a small matrix between two orthonormal ones.
        basis, upper = torch.linalg.qr(thin[0].double())
        other, lower = torch.linalg.qr(thin[1].double().T)
        u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        u, v = basis @ u, v @ other.T
    else:
        u, s, v = torch.linalg.svd(layer.turned(delta.dense()).double(), full_matrices=False)
    norm = float(s.norm())
    # tail[k]: what is lost if k directions are kept.
    tail = torch.cat([s.square().flip(0).cumsum(0).flip(0).sqrt(), s.new_zeros(1)])
    needed = int((tail > LOSSLESS * norm).sum())
    kept = needed if rank is None else min(needed, rank)
    if thin is not None and kept == thin[0].shape[1]:
        return _Factors(thin[1], thin[0], 0.0, norm)
    root = s[:kept].sqrt()
    into, out = (root[:, None] * v[:kept]).float(), (u[:, :kept] * root).float()
    return _Factors(into, out, float(tail[kept]), norm)


def _linear(model: torch.nn.Module, name: str) -> Linear:
    """The linear layer with the weight of that name.

    Raises:
        UsageError: there is none, or an adapter and a patch would not mean the same by it.
    """
    layer = linears(model).get(name.removesuffix(".weight"))
    if layer is None or layer.name != name:
        raise UsageError(
            f"{name} is not the weight of a linear layer, which is all that an adapter can change"
        )
    same = [n for n, tensor in named_tensors(model).items() if tensor.data_ptr() == layer.weight.data_ptr()]
    if len(same) > 1:
        raise UsageError(
            f"{name} is tied to {same[0] if same[0] != name else same[1]}: an adapter would change one"
        )
    return layer


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies B A by."""
    alpha = config.get("lora_alpha", 8)
    for pattern, special in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = special
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} is no adapter: it has no {name} (pickled weights are not read)")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise UsageError(f"{folder}: the adapter cannot be read ({type(error).__name__})") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UsageError(f"{folder} is no LoRA adapter, and no other kind can be read as a patch")
    strange = [name for name, value in config.items() if value and name not in _READ | _IMMATERIAL]
    if config.get("bias", "none") != "none":
        strange.append("bias")
    # Others, PiSSA among them, take something out of the base model's weights when they are loaded.
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        strange.append("init_lora_weights")
    if strange:
        raise UsageError(f"{folder}: the adapter has {', '.join(sorted(strange))}, which no patch can hold")
    return config, tensors
