"""Detoxify's checkpoints (github.com/unitaryai/detoxify), read without running what is in them.

A checkpoint is a pickle of ``{"state_dict": …, "config": …}``. Only tensors and plain values are read from it
(`weights_only`); anything else in it is refused before it is made. ``config.arch.args`` says of which
classes of transformers model and tokenizer are and where their settings lie (``model_type``: a folder, or an
id of the hub), ``config.dataset.args.classes`` names the first columns of the logits. Columns without a name,
which some of them were trained with for identities, are not reported. Each label is for itself (sigmoid).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from safeedit.errors import UsageError
from safeedit.policy.files import shown_path, why_unreadable
from safeedit.policy.problems import one_of
from safeedit.toxicity.files import Stamp, deciding, joint_digest, model_folder
from safeedit.toxicity.released import RELEASED, released
from safeedit.toxicity.sequences import OVERLAP, Sequences, checked, load_tokenizer, toxic_labels

RENAMED: Mapping[str, str] = {
    "toxic": "toxicity",
    "identity_hate": "identity_attack",
    "severe_toxic": "severe_toxicity",
}
"""Labels of the first data set, as the later ones call them."""


_FILE = "detoxify:FILE.ckpt"


class Detoxify(Sequences):
    """See the module."""

    name: ClassVar[str] = "detoxify"
    fit_for_release = True
    argument: ClassVar[str] = "FILE.ckpt"

    @classmethod
    def made(cls, argument: str, device: str) -> Self:
        """See `Scorer.made`."""
        if not argument:
            raise UsageError(f"the scorer 'detoxify' needs one of {', '.join(RELEASED)}, or a file: {_FILE}")
        path = released(argument) if argument in RELEASED else Path(argument)
        shown = f"detoxify:{argument}" if argument in RELEASED else shown_path(argument)
        if not path.exists() and os.sep not in argument and not path.suffix:
            raise UsageError(f"the checkpoint {one_of(argument, RELEASED)}; or give a file: {_FILE}")
        config, state = read_checkpoint(path, shown)
        args = _mapping(config, shown, "arch", "args")
        labels = _labels(config, args, shown)
        folder = model_folder(_text(args, "model_type", shown), f"the settings of {shown}", weights=False)
        files = [path, *deciding(folder, weights=False)]
        stamp = Stamp([*files, folder])
        model = _model(args, folder, state, shown)
        tokenizer = load_tokenizer(_tokenizer_class(args, shown), str(folder), f"the folder of {shown}")
        toxic = toxic_labels(labels, False, shown, "one of them must be toxicity, or a kind of it")
        parts = [args[key] for key in ("num_classes", "model_name", "tokenizer_name")]
        settings = [cls.name, parts, list(labels), list(toxic), OVERLAP]
        digest = joint_digest(files, settings)
        if stamp.changed():
            raise UsageError(f"{shown} changed while it was read; try again")
        found = cls(
            model,
            tokenizer,
            columns=labels,
            toxic=toxic,
            exclusive=False,
            digest=digest,
            stamp=stamp,
            device=device,
        )
        # What `safeedit.toxicity.small` makes says of itself that it is a toy.
        found.fit_for_release = config.get("fit_for_release", True) is True
        return found


def read_checkpoint(path: Path, shown: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint's settings and its tensors by name; nothing in it is run.

    Raises:
        UsageError: it cannot be read, or holds anything but tensors and plain values.
    """
    import torch

    reason, found = "", None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = why_unreadable(error)
    except Exception:
        # The loader's message quotes what the pickle asks for.
        reason = "this is not a checkpoint that can be read without running code in it; nothing was run"
    if reason:
        raise UsageError(f"{shown}: {reason}")
    if not isinstance(found, dict) or not {"config", "state_dict"} <= set(found):
        raise UsageError(f"{shown} is not a checkpoint of Detoxify: it needs 'config' and 'state_dict'")
    config, state = found["config"], found["state_dict"]
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise UsageError(
            f"{shown} is not a checkpoint of Detoxify: its 'config' or 'state_dict' is no mapping"
        )
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()):
        raise UsageError(f"{shown} is not a checkpoint of Detoxify: 'state_dict' holds more than tensors")
    if state and all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): value for name, value in state.items()}
    return config, dict(state)


def _mapping(config: Mapping[str, Any], shown: str, *keys: str) -> Mapping[str, Any]:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise UsageError(f"{shown} is not a checkpoint of Detoxify: it has no config.{'.'.join(keys)}")
    return found


def _text(args: Mapping[str, Any], key: str, shown: str) -> str:
    found = args.get(key)
    if not isinstance(found, str) or not found or "\0" in found:
        raise UsageError(f"{shown} is not a checkpoint of Detoxify: config.arch.args.{key} is no text")
    return found


def _labels(config: Mapping[str, Any], args: Mapping[str, Any], shown: str) -> tuple[str, ...]:
    """The names of the first columns."""
    given = _mapping(config, shown, "dataset", "args").get("classes")
    columns = args.get("num_classes")
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise UsageError(f"{shown} is not a checkpoint of Detoxify: config.dataset.args.classes is no list")
    labels = tuple(RENAMED.get(one, one) for one in given)
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < len(labels):
        raise UsageError(f"{shown}: config.arch.args.num_classes must be at least the number of its classes")
    if len(set(labels)) < len(labels):
        raise UsageError(f"{shown} names a class twice")
    return labels


def _model(args: Mapping[str, Any], folder: Path, state: Mapping[str, Any], shown: str) -> Any:
    """The model with exactly the checkpoint's weights.

    Raises:
        UsageError: its class is unknown, its settings cannot be read, or the weights do not fit it.
    """
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    name = _text(args, "model_name", shown)
    if name not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
        raise UsageError(f"{shown}: config.arch.args.model_name is no sequence classifier of transformers")
    kind = getattr(transformers, name)
    model, failed = None, ""
    try:
        config = kind.config_class.from_pretrained(
            str(folder), num_labels=args["num_classes"], local_files_only=True, trust_remote_code=False
        )
        # The weights drawn here are all replaced; the random numbers of others are left alone.
        with torch.random.fork_rng(devices=[]):
            model = kind(config)
    except Exception as error:
        failed = type(error).__name__
    if model is None:
        raise UsageError(f"the settings of {shown} could not be read from {shown_path(folder)} ({failed})")
    _fill(model, state, shown)
    checked(model, shown)
    return model


def _fill(model: Any, state: Mapping[str, Any], shown: str) -> None:
    """Put every tensor of the checkpoint in its place; none may be missing, none left over.

    Two leftovers decide nothing and are borne: tables that older versions saved though they are counted, not
    learnt (they must be what the model counts), and the pooler of a model whose head has no use for one.
    """
    import torch

    buffers, wanted = dict(model.named_buffers()), model.state_dict()
    pooler = f"{model.base_model_prefix}.pooler."
    pooled = any(name.startswith(pooler) for name in wanted)
    extra = [
        name
        for name, value in state.items()
        if name not in wanted
        and not (name in buffers and _begins_alike(buffers[name], value))
        and not (name.startswith(pooler) and not pooled)
    ]
    missing = sorted(set(wanted) - set(state))
    for has, names in (("the checkpoint lacks", missing), ("the model has no use for", sorted(extra))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UsageError(f"{shown} does not fit its model: {has} {shown_path(names[0])[:100]}{more}")
    for name, place in wanted.items():
        if state[name].shape != place.shape:
            raise UsageError(f"{shown} does not fit its model: {name} has another shape")
    with torch.no_grad():
        for name, place in wanted.items():
            place.copy_(state[name])


def _begins_alike(buffer: Any, saved: Any) -> bool:
    width = min(buffer.shape[-1], saved.shape[-1]) if buffer.dim() and saved.dim() == buffer.dim() else 0
    return bool(width) and bool((buffer[..., :width] == saved[..., :width]).all())


def _tokenizer_class(args: Mapping[str, Any], shown: str) -> Any:
    """The class that the checkpoint names, if it is a tokenizer of transformers."""
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    name = _text(args, "tokenizer_name", shown)
    known = {one.removesuffix("Fast") for one in TOKENIZER_MAPPING_NAMES.values() if one}
    if name.removesuffix("Fast") not in known | {"AutoTokenizer"}:
        raise UsageError(f"{shown}: config.arch.args.tokenizer_name is no tokenizer of transformers")
    kind = getattr(transformers, name, None)
    if kind is None:
        raise UsageError(f"{shown}: this transformers has no such tokenizer as the checkpoint names")
    return kind
