"""Any sequence classifier of transformers: a folder, or an id of the hub, with weights as safetensors.

Its settings say how logits become probabilities: ``problem_type: multi_label_classification`` means that each
label is for itself (sigmoid), ``single_label_classification`` that they exclude each other (softmax). Where
nothing is said, a single label is for itself and several exclude each other, as transformers trains them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from safeedit.errors import UsageError
from safeedit.policy.files import shown_path
from safeedit.toxicity.files import Stamp, deciding, joint_digest, model_folder
from safeedit.toxicity.sequences import (
    OVERLAP,
    Sequences,
    checked,
    load_tokenizer,
    named,
    quiet,
    toxic_labels,
)

MULTIPLE = "multi_label_classification"
SINGLE = "single_label_classification"


class Classifier(Sequences):
    """See the module."""

    name: ClassVar[str] = "transformers"
    fit_for_release = True
    argument: ClassVar[str] = "FOLDER#LABEL"

    @classmethod
    def made(cls, argument: str, device: str) -> Self:
        """See `Scorer.made`."""
        place, _, chosen = argument.rpartition("#") if "#" in argument else (argument, "", "")
        if os.path.isdir(argument):
            place, chosen = argument, ""
        if not place:
            raise UsageError("the scorer 'transformers' needs a folder or a hub id: transformers:FOLDER")
        shown = shown_path(place)
        folder = model_folder(place, "a sequence classifier", weights=True)
        files = deciding(folder, weights=True)
        stamp = Stamp([*files, folder])
        model = _model(folder, shown)
        labels = _labels(model.config, shown)
        exclusive = _exclusive(model.config, labels, shown)
        how = f"name them: transformers:{shown}#{named(labels[-1:])}"
        toxic = _chosen(chosen, labels, shown) if chosen else toxic_labels(labels, exclusive, shown, how)
        if exclusive and len(toxic) == len(labels):
            raise UsageError(f"every label of {shown} would be toxic; {how}")
        tokenizer = load_tokenizer(_auto_tokenizer(), str(folder), shown)
        digest = joint_digest(files, [cls.name, list(labels), list(toxic), exclusive, OVERLAP])
        if stamp.changed():
            raise UsageError(f"{shown} changed while it was read; try again")
        return cls(
            model,
            tokenizer,
            columns=labels,
            toxic=toxic,
            exclusive=exclusive,
            digest=digest,
            stamp=stamp,
            device=device,
        )


def _auto_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer


def _model(folder: Path, shown: str) -> Any:
    """The classifier, every weight of it from the folder.

    Raises:
        UsageError: it is none, or is not whole: a head that is missing would be drawn at random.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    if not list(folder.glob("*.safetensors")):
        raise UsageError(f"{shown} holds no weights as safetensors (pickled ones are not read; convert them)")
    found, failed = None, ""
    try:
        with quiet():
            found = AutoModelForSequenceClassification.from_pretrained(
                str(folder),
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:
        failed = type(error).__name__
    if found is None:
        raise UsageError(f"{shown} cannot be loaded as a sequence classifier ({failed})")
    model, loading = found
    wrong = sorted(map(str, loading["missing_keys"]))
    wrong += sorted(str(key[0]) for key in loading["mismatched_keys"])
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UsageError(f"{shown} is not whole: {wrong[0]}{more} is missing or has another shape")
    checked(model, shown)
    return model


def _labels(config: Any, shown: str) -> tuple[str, ...]:
    names: dict[int, str] = config.id2label
    labels = tuple(str(names.get(i, "")) for i in range(config.num_labels))
    if not all(labels) or len(set(labels)) < len(labels):
        raise UsageError(f"{shown} does not name each of its labels once; mend id2label in its config.json")
    return labels


def _exclusive(config: Any, labels: Sequence[str], shown: str) -> bool:
    kind = config.problem_type
    if kind not in (None, SINGLE, MULTIPLE):
        raise UsageError(f"{shown} gives no probabilities: its problem_type is none of {SINGLE}, {MULTIPLE}")
    return len(labels) > 1 and kind != MULTIPLE


def _chosen(chosen: str, labels: Sequence[str], shown: str) -> tuple[str, ...]:
    wanted = dict.fromkeys(one.strip() for one in chosen.split(","))
    if not set(wanted) <= set(labels):
        raise UsageError(f"{shown} has no such label; its labels are {named(labels)}")
    return tuple(wanted)
