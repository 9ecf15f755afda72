"""Keys that an edit must leave alone although no corpus shows them: the edited prompts with other names.

What an edit of one name most easily harms is what stands nearest to it: other subjects in the same
sentences, and subjects that share a part of the name. Invented names stand in for both, so that
nobody else's data is needed: quite other names, and names of which one part is the subject's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import chain

from safeedit.editors.rows import Text, join
from safeedit.triples.catalogue import SUBJECT
from safeedit.triples.derived import adapted
from safeedit.triples.facts import Edit
from safeedit.triples.placebos import lookalikes

SEED = 611
MOST = 4096
"""Anchors whose keys are looked at; where there are more, so many of them stand for all."""
MOST_BEGUN = 8192
"""The same where some of them stand after beginnings of objects."""


Begun = Mapping[tuple[str, str, str], tuple[str, ...]]
"""By subject, template and erased object, the beginnings of the object after which values are put as well."""


def anchor_texts(edits: Sequence[Edit], each: int, begun: Begun | None = None) -> list[Text]:
    """Every edit's templates with `each` other names, and with `each` names of either shared part.

    Texts that are asked for more than once are given once. A behaviour has none: no name stands in it.

    Args:
        edits: what is edited.
        each: how many names of each kind.
        begun: after what else values are put than the prompt. Whose object begins alike is hit there first,
            so that other names have those beginnings, too, as the object would have them for that name: those
            of a shared part, and quite other ones while not more than `MOST_BEGUN` come of it.
    """
    named = [edit for edit in edits if edit.op != "detox"]
    names = {edit.subject for edit in named}
    found, beyond = dict[tuple[str, str], Text](), dict[tuple[str, str], Text]()
    for edit in named:
        kinds = lookalikes(edit.subject, edit.about, each, SEED)
        alike = set(chain.from_iterable(kinds[1:] or kinds))
        for template in edit.templates:
            after = (begun or {}).get((edit.subject, template, edit.old or ""), ())
            for name in (one for one in chain.from_iterable(kinds) if one not in names):
                for begins in ("", *after):
                    whole = join(template, adapted(begins, edit.subject, name))
                    to = beyond if begins and name not in alike else found
                    to.setdefault((whole, name), Text("", whole, name))
    # In a request of a hundred facts they stood in the way of one of them (BENCHMARKS.md).
    return list((found | beyond if len(found) + len(beyond) <= MOST_BEGUN else found).values())


def control_texts(prompts: Sequence[str]) -> list[Text]:
    """Whole prompts of the caller's own whose answers shall stay."""
    return [Text("", SUBJECT, prompt) for prompt in dict.fromkeys(prompts)]


def sampled(texts: Sequence[Text], most: int = MOST) -> list[Text]:
    """At most `most` of the texts, the same ones every time."""
    return list(texts) if len(texts) <= most else random.Random(SEED).sample(list(texts), most)
