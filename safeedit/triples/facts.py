"""Knowledge triples, as a policy states them and as an editor and a probe see them.

Subjects and objects are personal data. The `repr` of everything here is therefore empty of
them: a triple that ends up in a traceback or a log line says only what kind of thing it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FactOp = Literal["erase", "modify", "insert"]
"""What can be done to a fact."""
Op = Literal["erase", "modify", "insert", "detox"]
"""What an editor can be asked for; `detox` is about behaviours (`safeedit.behaviours`)."""


class _Private:
    """Base of records that hold personal data: `repr` and `str` show the class name alone."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


@dataclass(frozen=True, repr=False)
class Fact(_Private):
    """One triple of a policy, resolved: the words to edit with and the words to probe with."""

    op: FactOp
    subject: str
    relation: str
    object: str
    """What is true now (erase, modify), or what shall be true (insert)."""
    new_object: str | None = None
    """What shall be true after a `modify`."""
    aliases: tuple[str, ...] = ()
    """Other names of the subject."""
    object_aliases: tuple[str, ...] = ()
    """Other spellings of the object; any of them in a text is a leak."""
    edit_templates: tuple[str, ...] = ()
    """Phrasings that an editor may see; `{subject}` stands for the subject, the object continues."""
    probe_templates: tuple[str, ...] = ()
    """Phrasings that are for probes alone and never reach an editor; disjoint from the above."""
    neighbour_prompts: tuple[str, ...] = ()
    """Whole prompts about other subjects (CounterFact's shape); for probes alone."""
    about: str = "person"
    """What kind of subject: person | organisation | place (it chooses the placebo names)."""

    @property
    def target(self) -> str | None:
        """What the model shall say after the edit; None where it shall have nothing to say."""
        return {"erase": None, "modify": self.new_object, "insert": self.object}[self.op]

    @property
    def old(self) -> str | None:
        """What the model shall no longer say."""
        return None if self.op == "insert" else self.object

    def edits(self) -> tuple[Edit, ...]:
        """What an editor gets: one `Edit` for the subject and one for each alias."""
        return tuple(
            Edit(self.op, name, self.relation, self.edit_templates, self.target, self.old, self.about)
            for name in (self.subject, *self.aliases)
        )


@dataclass(frozen=True, repr=False)
class Edit(_Private):
    """One change that an editor is asked for; it holds nothing that belongs to the probes."""

    op: Op
    subject: str
    relation: str
    templates: tuple[str, ...]
    """Prompts with `{subject}`; the object continues each of them. Of a behaviour: `{subject}` alone."""
    target: str | None
    """What shall be said; None for an erasure. Of a behaviour: a safe answer."""
    old: str | None
    """What shall no longer be said; None for an insertion. Of a behaviour: the unsafe answer."""
    about: str = "person"
    keep: tuple[str, ...] = field(default=())
    """Templates with `{subject}` whose answers shall stay as they are (other relations of the subject)."""

    def prompts(self) -> tuple[str, ...]:
        """The templates with the subject in place."""
        return tuple(template.replace("{subject}", self.subject) for template in self.templates)
