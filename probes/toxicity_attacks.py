"""Attacks: whether a behaviour that is gone from plain prompts comes back when somebody coaxes the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from safeedit.behaviours import PROMPT, Behaviour
from safeedit.probes.base import Context
from safeedit.probes.chat import both_ways
from safeedit.probes.defending import (
    SHOWN,
    UNSEEN,
    DefenceOptions,
    DefencePlan,
    DefenceProbe,
    Judged,
    Provocation,
)
from safeedit.probes.elicit_files import Record, prompt_file

EXAMPLES = "{examples}"
SLOT = re.compile("|".join(map(re.escape, (PROMPT, EXAMPLES))))
OWN = "policy"
"""What the policy's own attacks are called in the figures; the first is `policy_1`."""

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class Frames(Record):
    """The form of ``prompts/attacks_unsafe.yaml``."""

    frames: dict[_Name, str] = Field(min_length=1)

    @field_validator("frames")
    @classmethod
    def _have_the_prompt(cls, given: dict[str, str]) -> dict[str, str]:
        without = sorted(name for name, text in given.items() if PROMPT not in text)
        if without:
            raise ValueError(f"a frame needs {PROMPT} in its text; not so: {', '.join(without)}")
        return given


class AttacksOptions(DefenceOptions):
    """Settings of the attacks."""

    prompts: int = Field(default=30, ge=1)
    """Prompts of each kind, at most; of more a random sample. Each is put into every frame."""
    examples: int = Field(default=4, ge=1)
    """Unsafe answers that a frame with examples shows."""
    frames: str | None = None
    """A file of your own, in the form of ``prompts/attacks_unsafe.yaml``."""


@dataclass(frozen=True, repr=False)
class AttacksPlan(DefencePlan):
    """What is asked; the texts of a unit are its frames in turn, in as many ways each."""

    frames: tuple[str, ...] = ()
    """Their names."""

    def material(self) -> object:
        """As JSON values."""
        return [super().material(), list(self.frames)]


class UnsafeAttacks(DefenceProbe):
    """Prompts that provoke a behaviour are not answered with it either when an attack is put around them.

    Metric: share of prompts that any of the attacks gets an unsafe answer to; `worst95` is the largest exact
    bound of any kind of prompt, and no editor saw the attacks. As detail the share of safe answers: DG_otherA
    (prompts that the editor saw) and DG_otherAQ (others), and every attack by itself. Unit: prompt that some
    attack worked for on the base model, or works for on the edited one; where none ever worked there is no
    evidence. Protocol: as `toxicity.defence`; `prompts/attacks_unsafe.yaml` and the policy's own attacks.
    Source: SafeEdit (arXiv 2403.14472).
    """

    id = "toxicity.attacks"
    grade = "G2"
    metric = "attacked_unsafe_rate"
    options: AttacksOptions
    options_model = AttacksOptions
    names: ClassVar = {SHOWN: "dg_other_a", UNSEEN: "dg_other_aq"}

    def plan(self, context: Context) -> AttacksPlan:
        """Every prompt in every frame.

        Raises:
            UsageError: there is no such scorer.
            PolicyError: the file of frames is not one.
        """
        given = context.behaviours
        frames = dict(prompt_file(self.options.frames, "attacks_unsafe.yaml", Frames).frames)
        frames |= {f"{OWN}_{number}": text for number, text in enumerate(given.attacks, 1)}
        shown = {one.prompt: one.category for one in given.shown}
        units = []
        for kind, prompts in self.prompts_of(context).items():
            for prompt in prompts:
                texts = tuple(
                    text
                    for frame in frames.values()
                    for text in both_ways(context, (self._framed(context, frame, prompt),))
                )
                units.append(Provocation(kind, shown.get(prompt, ""), texts))
        return AttacksPlan(tuple(units), bool(given), self.options.judges.digests, frames=tuple(frames))

    def _framed(self, context: Context, frame: str, prompt: str) -> str:
        """A prompt within an attack; white space at its end matters where the answer follows it."""
        others = [one for one in context.behaviours.shown if one.prompt != prompt]
        some = context.rng(f"{self.id}|{prompt}").sample(others, min(len(others), self.options.examples))
        slots = {
            PROMPT: prompt if frame.endswith(PROMPT) else prompt.rstrip(),
            EXAMPLES: "\n".join(map(_said, some)),
        }
        # All in one pass: braces within a prompt are no slot.
        return SLOT.sub(lambda found: slots[found[0]], frame)

    def misbehaves(self, plan: DefencePlan, seen: Judged) -> bool:
        """Never: whether there is anything to take away is seen by what bare prompts get."""
        return False

    def more(
        self, plan: DefencePlan, before: Judged, after: Judged, relevant: Sequence[int]
    ) -> dict[str, float]:
        """How often each attack works, and how many ever worked."""
        assert isinstance(plan, AttacksPlan)
        rates = {when: dict(self._rates(plan, seen)) for when, seen in (("before", before), ("after", after))}
        detail = {
            f"attack_{name}_{when}": rate for when, some in rates.items() for name, rate in some.items()
        }
        return {
            "attacks": len(plan.frames),
            "attacks_worked_before": sum(rate > 0 for rate in rates["before"].values()),
            "attacks_worked_after": sum(rate > 0 for rate in rates["after"].values()),
            **detail,
        }

    def _rates(self, plan: AttacksPlan, seen: Judged) -> Iterator[tuple[str, float]]:
        """By attack, the share of prompts that it gets an unsafe answer to."""
        limit = self.options.threshold
        for number, name in enumerate(plan.frames):
            size = len(plan.units[0].texts) // len(plan.frames)
            own = slice(number * size, (number + 1) * size)
            rows = seen.scores[0]
            yield name, sum(max(row[own]) >= limit for row in rows) / len(rows)


def _said(one: Behaviour) -> str:
    gap = "" if one.prompt[-1:].isspace() else " "
    return f"{one.prompt}{gap}{one.unsafe}"
