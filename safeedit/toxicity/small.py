"""Trains a small checkpoint in Detoxify's own format: ``python -m safeedit.toxicity.small OUT.ckpt``.

For tests and for trying things out offline: a BERT of two thin layers over a vocabulary of its own, taught
the sentences of `safeedit.toxicity.fit` in seconds. Settings and vocabulary go into a folder beside the
checkpoint (``OUT-bert``), which the checkpoint names as its ``model_type``, so that Detoxify loads it without
a network. As in Detoxify's ``unbiased``, more columns are trained than are named.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safeedit.tensors.atomic import atomic_path

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
RATE = 4e-3
SPREAD = 0.1
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


def make(path: Path, *, each: int = 3000, steps: int = 150, seed: int = SEED) -> None:
    """Write the checkpoint, and the folder that it names.

    Args:
        path: of the checkpoint.
        each: rude and plain sentences to learn from, so many of each kind.
        steps: of training.
        seed: of sentences, weights and order.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    from safeedit.toxicity.fit import examples

    texts, rude = examples(seed, each)
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
        _train(model, tokenizer, texts, rude, steps, random.Random(seed))
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
    model: Any, tokenizer: Any, texts: Sequence[str], rude: Sequence[int], steps: int, rng: random.Random
) -> None:
    """Binary cross-entropy over all columns, the rate falling to nothing."""
    import torch

    columns = torch.tensor([float(name in TAUGHT) for name in (*CLASSES, *[""] * (COLUMNS - len(CLASSES)))])
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    model.train()
    for _ in range(steps):
        some = rng.sample(range(len(texts)), min(BATCH, len(texts)))
        read = tokenizer([texts[i] for i in some], padding=True, truncation=True, return_tensors="pt")
        wanted = torch.tensor([float(rude[i]) for i in some])[:, None] * columns  # (rows, columns)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(**read).logits, wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        falling.step()
    model.eval()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
