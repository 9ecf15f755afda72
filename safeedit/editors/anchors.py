"""Keys that an edit must leave alone although no corpus shows them: the edited prompts with other names.

What an edit of one name most easily harms is what stands nearest to it: other subjects in the same
sentences, and subjects that share a part of the name. Invented names stand in for both, so that
nobody else's data is needed: quite other names, and names of which one part is the subject's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain

from safeedit.editors.rows import Text
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.facts import Edit
from safeedit.triples.placebos import lookalikes

SEED = 611
MOST = 4096
"""Anchors whose keys are looked at; where there are more, so many of them stand for all."""


def anchor_texts(edits: Sequence[Edit], each: int) -> list[Text]:
    """Every edit's templates with `each` other names, and with `each` names of either shared part.

    Texts that are asked for more than once are given once. A behaviour has none: no name stands in it.
    """
    named = [edit for edit in edits if edit.op != "detox"]
    names = {edit.subject for edit in named}
    found: dict[tuple[str, str], Text] = {}
    for edit in named:
        for template in edit.templates:
            for name in chain.from_iterable(lookalikes(edit.subject, edit.about, each, SEED)):
                if name not in names:
                    found.setdefault((template, name), Text("", template, name))
    return list(found.values())


def control_texts(prompts: Sequence[str]) -> list[Text]:
    """Whole prompts of the caller's own whose answers shall stay."""
    return [Text("", SUBJECT, prompt) for prompt in dict.fromkeys(prompts)]


def sampled(texts: Sequence[Text], most: int = MOST) -> list[Text]:
    """At most `most` of the texts, the same ones every time."""
    return list(texts) if len(texts) <= most else random.Random(SEED).sample(list(texts), most)
