"""Keys that an edit must leave alone although no corpus shows them: the edited prompts with other names.

What an edit of one name most easily harms is what stands nearest to it: other subjects in the same
sentences, and subjects that share a part of the name. Invented names stand in for both, so that
nobody else's data is needed: quite other names, and names of which one part is the subject's.
"""

from __future__ import annotations

from collections.abc import Sequence

from safeedit.editors.rows import Text
from safeedit.triples.facts import Edit
from safeedit.triples.placebos import placebo_kind, placebo_names

SEED = 611


def anchor_texts(edits: Sequence[Edit], each: int) -> list[Text]:
    """Every edit's templates with `each` other names, and with `each` names of either shared part.

    Texts that are asked for more than once are given once.
    """
    names = {edit.subject for edit in edits}
    found: dict[tuple[str, str], Text] = {}
    for edit in edits:
        for template in edit.templates:
            for name in _others(edit, each):
                if name not in names:
                    found.setdefault((template, name), Text("", template, name))
    return list(found.values())


def _others(edit: Edit, each: int) -> list[str]:
    invented = placebo_names(placebo_kind(edit.about), 2 * each, SEED)
    words = edit.subject.split()
    others = list(invented[:each])
    if len(words) > 1:
        for stranger in invented[each:]:
            parts = stranger.split()
            others.append(" ".join([*words[:-1], parts[-1]]))
            others.append(" ".join([parts[0], *words[1:]]))
    return others
