"""Trains a small checkpoint in Detoxify's own format: ``python -m safeedit.toxicity.small OUT.ckpt``.

For tests and for trying things out offline: a BERT of two thin layers over a vocabulary of its own, taught
the sentences of `safeedit.toxicity.fit` in seconds, or labelled texts of one's own (``--labelled FILE`` and
the rest as there), as a second judge beside a linear one. Settings and vocabulary go into a folder beside the
checkpoint (``OUT-bert``), which the checkpoint names as its ``model_type``, so that Detoxify loads it without
a network. As in Detoxify's ``unbiased``, more columns are trained than are named.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safeedit.errors import UsageError
from safeedit.tensors.atomic import atomic_path
from safeedit.toxicity.fit import EACH, examples
from safeedit.toxicity.labelled import add_arguments, given_texts

CLASSES = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
"""In the names of the first data set, which readers rename."""
COLUMNS = len(CLASSES) + 2
"""Two without a name, as the identities of later checkpoints."""
TAUGHT = ("toxic", "insult")
"""Labels that the examples have; the others, and what has no name, are taught to be absent."""
WORDS = 2000
LENGTH = 64
"""Tokens that it reads at once; short, so that windows are needed soon."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BATCH = 64
STEPS = 150
RATE = 4e-3
SPREAD = 0.05
"""Of the weights at first; the usual .02 is for wider models and takes many more steps here."""
SEED = 17


def vocabulary(texts: Sequence[str]) -> list[str]:
    """Special tokens, single characters (alone and within words), the most frequent words."""
    lower = [text.lower() for text in texts]
    letters = sorted(
        {c for text in lower for c in text if not c.isspace()} | set("abcdefghijklmnopqrstuvwxyz")
    )
    counts = Counter(word for text in lower for word in re.findall(r"\w+", text) if len(word) > 1)
    common = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:WORDS]]
    return [*SPECIAL, *letters, *(f"##{c}" for c in letters), *common]


def make(
    path: Path, texts: Sequence[str], toxic: Sequence[int], *, steps: int = STEPS, seed: int = SEED
) -> None:
    """Write the checkpoint, and the folder that it names.

    Args:
        path: of the checkpoint.
        texts: to learn from.
        toxic: 1 for each text that is toxic.
        steps: of training.
        seed: of weights and order.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    words = vocabulary(texts)
    folder = path.resolve().with_name(f"{path.stem}-bert")
    folder.mkdir(parents=True, exist_ok=True)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=SPREAD,
        num_labels=COLUMNS,
    )
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=LENGTH)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
        _train(model, tokenizer, texts, toxic, steps, random.Random(seed))
    checkpoint = {
        "state_dict": model.state_dict(),
        "config": {
            "fit_for_release": False,
            "arch": {
                "type": "BERT",
                "args": {
                    "num_classes": COLUMNS,
                    "model_type": str(folder),
                    "model_name": "BertForSequenceClassification",
                    "tokenizer_name": "BertTokenizer",
                },
            },
            "dataset": {"args": {"classes": list(CLASSES)}},
        },
    }
    with atomic_path(path) as temporary:
        torch.save(checkpoint, temporary)


def _train(
    model: Any, tokenizer: Any, texts: Sequence[str], toxic: Sequence[int], steps: int, rng: random.Random
) -> None:
    """Binary cross-entropy over all columns, the rate falling to nothing; as many toxic texts as others."""
    import torch

    columns = torch.tensor([float(name in TAUGHT) for name in (*CLASSES, *[""] * (COLUMNS - len(CLASSES)))])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    kinds = [[i for i, label in enumerate(toxic) if label == kind] for kind in (0, 1)]
    model.train()
    for _ in range(steps):
        some = [i for kind in kinds for i in rng.sample(kind, min(BATCH // 2, len(kind)))]
        read = tokenizer([texts[i] for i in some], padding=True, truncation=True, return_tensors="pt")
        wanted = torch.tensor([float(toxic[i]) for i in some])[:, None] * columns  # (rows, columns)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(**read).logits, wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        falling.step()
    model.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m safeedit.toxicity.small", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.ckpt")
    parser.add_argument("--steps", type=int, default=STEPS)
    add_arguments(parser)
    given = parser.parse_args(arguments)
    try:
        texts, toxic = given_texts(given) or examples(SEED, EACH)
    except UsageError as error:
        parser.error(str(error))
    make(given.out, texts, toxic, steps=given.steps)


if __name__ == "__main__":
    main()
