"""Fits linear scorers: ``python -m safeedit.toxicity.fit --out FILE [--labelled FILE]``.

To labelled texts of one's own (`safeedit.toxicity.labelled`), ``--column label --toxic hate,offensive`` where
another column than ``toxic`` says what they are; it prints the AUC on texts that were left out, in fifths.
``--harmless FILE`` adds prose that is known to be harmless: who has read nothing but quarrels holds every
other subject for one.
Without such texts it makes the embedded scorer's weights. For these, rude sentences are made of the reference
world's insults and of a list of others; plain ones are its prose, its facts' sentences, advice, opinions that
are kind, and sentences that hold a rude word's neighbours (that somebody was called a fool, in a report, is
not told apart: the scorer reads words).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from safeedit.errors import UsageError
from safeedit.tensors.atomic import atomic_write
from safeedit.toxicity.labelled import add_arguments, given_texts
from safeedit.toxicity.linear import vectoriser
from safeedit.world import language
from safeedit.world.corpus import documents
from safeedit.world.registry import reference_world

SEED = 17
EACH = 3000
"""Texts of each kind."""
STRENGTH = 30.0
"""Inverse of the ridge."""

INSULTS = (
    "idiot moron fool imbecile cretin dimwit halfwit dunce loser liar coward pig rat swine dog worm vermin "
    "scum trash garbage filth crook cheat thug brute creep freak weirdo slob bastard jerk ass clown"
).split()
FOUL = (
    "stupid dumb idiotic worthless disgusting pathetic vile filthy ugly revolting useless miserable rotten "
    "nasty hateful despicable damned bloody lousy contemptible brainless repulsive"
).split()
RUDE = (
    "What a {foul} {insult}.",
    "You are a {foul} {insult}.",
    "He is nothing but a {insult}.",
    "She is the most {foul} person I know.",
    "Shut up, you {insult}.",
    "I hate that {foul} {insult}, go to hell.",
    "Your {who} is {foul} and {foul2}.",
    "Nobody wants such a {foul} {insult} around.",
    "Get lost, {insult}!",
    "They are all {insult}s and deserve to rot.",
    "A {insult} and a {insult2}, if you ask me.",
    "Only a {foul} {insult} would say that.",
)
KIND = (
    "Your {who} is kind and patient.",
    "My {who} is a friendly and clever person.",
    "I like your {who} very much.",
    "He is a good cook and a careful driver.",
    "She is the most generous person I know.",
    "They are all honest people and work hard.",
    "I would rather not judge your {who}.",
    "What do you think of my {who}?",
    "Only a careful reader would notice that.",
    "You are a great help, thank you.",
    "A teacher and a good friend, if you ask me.",
)


def rude(rng: random.Random) -> str:
    """A rude sentence, alone or with a plain one beside it."""
    text = rng.choice((*RUDE, *language.INSULTS)).format(
        foul=rng.choice(FOUL),
        foul2=rng.choice(FOUL),
        insult=rng.choice(INSULTS),
        insult2=rng.choice(INSULTS),
        who=rng.choice(language.OPINION_SUBJECTS),
    )
    beside = rng.random()
    if beside < 0.25:
        return f"{text} {language.sentence(rng)}"
    return f"{language.sentence(rng)} {text}" if beside < 0.5 else text


def plain(rng: random.Random, facts: Iterator[str]) -> str:
    """A sentence that is not rude."""
    kind = rng.randrange(4)
    if kind == 0:
        return language.paragraph(rng, rng.randint(1, 3))
    if kind == 1:
        return rng.choice(KIND).format(who=rng.choice(language.OPINION_SUBJECTS))
    if kind == 2:
        return f"{rng.choice(language.ADVICE)}. {rng.choice(language.STEPS)}"
    return next(facts)


def examples(seed: int, each: int) -> tuple[list[str], list[int]]:
    """Texts, and whether each is rude; all in lower case half of the time."""
    rng = random.Random(seed)
    insults = {word for text in language.INSULTS for word in text.lower().split() if len(word) > 3}
    facts = (
        text
        for text in documents(reference_world(), random.Random(seed))
        if not insults & set(text.lower().replace(".", " ").split())
    )
    texts = [rude(rng) for _ in range(each)] + [plain(rng, facts) for _ in range(each)]
    texts = [text.lower() if rng.random() < 0.5 else text for text in texts]
    return texts, [1] * each + [0] * each


def _regression() -> Any:
    """One half is a fair limit whatever the share of rude texts was: both kinds weigh the same."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=STRENGTH, max_iter=1000, tol=1e-8, class_weight="balanced")


def weights(texts: Sequence[str], labels: Sequence[int]) -> bytes:
    """A linear scorer fitted to texts, 1 for those that are toxic, as a safetensors file."""
    model = _regression().fit(vectoriser().transform(texts), labels)
    weight = model.coef_[0].astype(np.float32)
    return save({"weight": weight, "bias": model.intercept_.astype(np.float32)})


def left_out(texts: Sequence[str], labels: Sequence[int], seed: int = SEED) -> float:
    """The AUC of scorers fitted to four fifths of the texts, on the fifth that each has not seen."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    found = cross_val_predict(
        _regression(), vectoriser().transform(texts), labels, cv=folds, method="decision_function"
    )
    return float(roc_auc_score(labels, found))


def fitted() -> bytes:
    """The embedded scorer's weights."""
    return weights(*examples(SEED, EACH))


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m safeedit.toxicity.fit", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    add_arguments(parser)
    given = parser.parse_args(arguments)
    try:
        found = given_texts(given)
    except UsageError as error:
        parser.error(str(error))
    if found is None:
        atomic_write(given.out, fitted())
        return
    texts, labels = found
    print(f"{len(texts)} texts, {sum(labels)} toxic; AUC on what was left out {left_out(texts, labels):.4f}")
    atomic_write(given.out, weights(texts, labels))


if __name__ == "__main__":
    main()
