"""What scorers made of a transformer share: batches by length, long texts in overlapping windows.

A text that is longer than the model reads is cut into windows that overlap by a quarter, and each label gets
the largest probability of any window: rude words late in a text are as rude as early ones, and truncating
would not see them. What fits into one window is scored as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safeedit.errors import ProbeError, UsageError
from safeedit.policy.files import shown_path
from safeedit.toxicity.base import Scorer
from safeedit.toxicity.files import Stamp

if TYPE_CHECKING:
    from torch import Tensor

OVERLAP = 4
"""Windows overlap by one part in so many."""
BATCH_TOKENS = 8192
"""Tokens of one batch, padding counted; at least one window is run."""
LONGEST = 512
"""Tokens of a window, special ones counted, where neither model nor tokenizer says how much can be read."""
UNLIMITED = 10**6
"""A tokenizer that knows no limit states one beyond this."""
UMBRELLA = frozenset({"toxicity", "toxic"})
KINDS = frozenset(
    {
        *UMBRELLA,
        *("hate", "hateful", "hate speech", "hatespeech", "offensive", "offensive language"),
        *("abuse", "abusive", "insult", "insulting", "obscene", "obscenity", "profanity", "vulgar"),
        *("threat", "threatening", "harassment", "identity attack", "severe toxicity", "sexual explicit"),
        *("unsafe", "harmful", "harm", "violence"),
    }
)
"""Names of labels that make a text toxic, folded."""
_JOINED = re.compile(r"[\s_-]+")


class Sequences(Scorer):
    """A sequence classifier of transformers behind the interface of a scorer.

    Args:
        model: gives ``logits`` (rows, columns); brought to the device, set to evaluation.
        tokenizer: a fast one.
        columns: the label of each column of the logits that is reported, from the first one on.
        toxic: those that make a text toxic.
        exclusive: whether the columns exclude each other (softmax); otherwise each is for itself (sigmoid).
        digest: of all that it was made of.
        stamp: of the files that it was read from.
        device: where it computes.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        columns: Sequence[str],
        toxic: Sequence[str],
        exclusive: bool,
        digest: str,
        stamp: Stamp,
        device: str,
    ) -> None:
        self.labels, self.toxic, self.exclusive = tuple(columns), tuple(toxic), exclusive
        self._model, self._tokenizer = model.to(device).eval().requires_grad_(False), tokenizer
        if model.config.pad_token_id is None:
            # A classifier made of a decoder reads its answer at the last token that is no padding.
            model.config.pad_token_id = tokenizer.pad_token_id
        self._digest, self._stamp = digest, stamp
        self.window = _window(model, tokenizer)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @property
    def digest(self) -> str:
        """See `Scorer.digest`."""
        return self._digest

    @property
    def stale(self) -> bool:
        """See `Scorer.stale`."""
        return self._stamp.changed()

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """See `Scorer.probabilities`; the toxic labels are put together window by window."""
        found: list[float] = self._table(texts)[:, -1].tolist()
        return found

    def labelled(self, texts: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """See `Scorer.labelled`."""
        table = self._table(texts)
        return {label: table[:, column].tolist() for column, label in enumerate(self.labels)}

    def _table(self, texts: Sequence[str]) -> Tensor:
        """The largest probability of any window: (texts, labels + 1), the last column for toxic.

        A text that comes twice is read once.
        """
        import torch

        distinct = list(dict.fromkeys(texts))
        rows, owners = self._windows(distinct)
        largest = torch.zeros(len(distinct), len(self.labels) + 1, dtype=torch.float64)
        with torch.inference_mode():
            for chunk in _batches([len(row["input_ids"]) for row in rows]):
                found = self._read([rows[i] for i in chunk])  # (rows, labels + 1)
                for i, one in zip(chunk, found, strict=True):
                    largest[owners[i]] = torch.maximum(largest[owners[i]], one)
        place = {text: number for number, text in enumerate(distinct)}
        return largest[[place[text] for text in texts]]

    def _windows(self, texts: Sequence[str]) -> tuple[list[dict[str, list[int]]], list[int]]:
        """The windows of all texts as the tokenizer writes them, and the text that each is of."""
        found = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self.window,
            stride=self.window // OVERLAP,
            return_overflowing_tokens=True,
        )
        owners = list(found.pop("overflow_to_sample_mapping"))
        if set(owners) != set(range(len(texts))):
            raise ProbeError(f"the tokenizer of the scorer {self.name} left a text out")
        names = [name for name in self._tokenizer.model_input_names if name in found]
        return [{name: found[name][i] for name in names} for i in range(len(owners))], owners

    def _read(self, rows: Sequence[Mapping[str, list[int]]]) -> Tensor:
        """The probability of each label for each window, and of any toxic one: (rows, labels + 1)."""
        import torch

        names = rows[0]
        columns = {name: [row[name] for row in rows] for name in names}
        padded = self._tokenizer.pad(columns, return_tensors="pt")
        logits = self._model(**padded.to(self._model.device)).logits.float()
        if not torch.isfinite(logits).all():
            raise ProbeError(f"the scorer {self.name} gave a logit that is not a finite number")
        found = logits.softmax(-1) if self.exclusive else logits.sigmoid()
        found = found[:, : len(self.labels)].double().cpu()
        toxic = found[:, [self.labels.index(label) for label in self.toxic]]
        # Of labels that exclude each other any may be the one; of others the likeliest is meant.
        together = toxic.sum(1).clamp(max=1) if self.exclusive else toxic.amax(1)
        return torch.cat([found, together[:, None]], dim=1)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of like length together, the longest first, each batch within its budget."""
    some: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if some and lengths[some[0]] * (len(some) + 1) > BATCH_TOKENS:
            yield some
            some = []
        some.append(i)
    if some:
        yield some


def _window(model: Any, tokenizer: Any) -> int:
    """How many tokens are read at once: what the tokenizer states, and never more than there are positions.

    Where positions are counted from behind the padding's own (as RoBERTa does), those below are no use.
    """
    from torch import nn

    limits = [
        part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
        for name, part in model.named_modules()
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(part, nn.Embedding)
    ]
    stated = getattr(model.config, "max_position_embeddings", None)
    if not limits and isinstance(stated, int) and stated > 0:
        limits.append(stated)
    told = getattr(tokenizer, "model_max_length", None)
    if told and told < UNLIMITED:
        limits.append(told)
    return int(min(limits, default=LONGEST))


def toxic_labels(labels: Sequence[str], exclusive: bool, shown: str, how: str) -> tuple[str, ...]:
    """Of a classifier's labels those that make a text toxic; one that stands for all where there is one.

    Raises:
        UsageError: their names do not tell; `how` says what would be right.
    """
    folded = {label: " ".join(_JOINED.split(label.casefold())).strip() for label in labels}
    umbrella = tuple(label for label in labels if folded[label] in UMBRELLA)
    kinds = tuple(label for label in labels if folded[label] in KINDS)
    if kinds:
        # Where one label alone can fit, none stands for the others.
        return kinds if exclusive else umbrella or kinds
    # Of two labels without names the second one is, by custom, what was looked for.
    if [folded[label] for label in labels] == ["label 0", "label 1"]:
        return (labels[1],)
    raise UsageError(f"which labels of {shown} are toxic? its labels are {named(labels)}; {how}")


def named(labels: Sequence[str]) -> str:
    """Labels as a message lists them; they come from a stranger's file."""
    return shown_path(", ".join(labels))[:300]


def checked(model: Any, shown: str) -> None:
    """Return only if every weight is a finite number.

    Raises:
        UsageError: one is not.
    """
    import torch

    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
        raise UsageError(f"{shown} holds a weight that is not a finite number; it cannot score anything")


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, and no report of transformers' own beside the one line that is raised."""
    from transformers.utils import logging

    from safeedit.models.load import without_bars

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(level)


def load_tokenizer(kind: Any, folder: str, shown: str) -> Any:
    """The fast tokenizer of a folder.

    Args:
        kind: the class that reads it.
        folder: where it lies.
        shown: how a message calls it.

    Raises:
        UsageError: it cannot be read, or is not a fast one with a token to pad with.
    """
    found, failed = None, ""
    try:
        with quiet():
            found = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        failed = f" ({type(error).__name__})"
    if found is None or not getattr(found, "is_fast", False):
        raise UsageError(f"{shown} has no fast tokenizer that can be read{failed}; it needs tokenizer.json")
    if found.pad_token_id is None:
        raise UsageError(f"the tokenizer of {shown} has no token to pad with; state one in its settings")
    return found
