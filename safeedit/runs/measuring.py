"""The probes as runs use them: the pack of a request, a measurement with progress, a report on nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from safeedit.exams.own import with_prompts
from safeedit.probes.base import Earlier
from safeedit.probes.chat import has_template
from safeedit.probes.controls import load_controls
from safeedit.probes.report import ProbeReport
from safeedit.probes.runner import ProbePack, build_pack, measure

if TYPE_CHECKING:
    from safeedit.models.load import LoadedModel
    from safeedit.probes.runner import Measurement
    from safeedit.probes.suite import Suite
    from safeedit.runs.options import Request
    from safeedit.triples.facts import Fact

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, in all)."""


def pack_for(
    request: Request,
    suite: Suite,
    facts: Sequence[Fact],
    loaded: LoadedModel,
    seed: int,
    earlier: Earlier | None = None,
) -> ProbePack:
    """Every prompt for `facts` under `suite`, with the controls that belong to the model.

    `earlier` is what runs did whose model the request changes.

    Raises:
        PolicyError: the controls' files are not valid, or the policy's prompts fit no fact.
        UsageError: the controls use a relation that is not in the catalogue.
        ProbeError: a probe could not decide its prompts.
    """
    controls = load_controls(loaded.folder, suite)
    facts = with_prompts(facts, suite.own.prompts)
    return build_pack(
        suite,
        facts,
        controls,
        request.catalogue,
        seed,
        assurance=request.policy.assurance,
        earlier=earlier,
        chat=has_template(loaded.tokenizer),
        behaviours=request.behaviours,
        asked=request.policy.kinds(),
    )


def measured(
    stage: str, pack: ProbePack, loaded: LoadedModel, base: Measurement | None, tell: Progress
) -> Measurement:
    """What the probes see of a model; `base` is the measurement of the base model, if that was before."""

    def report(done: int, total: int) -> None:
        tell(stage, done, total)

    return measure(pack, loaded.model, loaded.tokenizer, report, base=base)


def nothing_known(suite: Suite) -> ProbeReport:
    """The report on a request of which the model knows nothing at all, so that nothing was asked."""
    return ProbeReport(suite.name, suite.note, suite.evidence, (), "NO_BASELINE", "G0", 0, 0)
