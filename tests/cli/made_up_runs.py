"""Runs with chosen results, for tests of what is printed: real folders, no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safeedit.policy import Policy
from safeedit.policy.compile import facts_of
from safeedit.probes.base import Figures
from safeedit.probes.gates import Gate
from safeedit.probes.report import EXIT_CODES, ProbeReport, ProbeResult
from safeedit.runs.folder import RunFolder
from safeedit.runs.outcome import Run
from safeedit.runs.record import EditorRecord

HOSTILE = "[red]Xylographic[/red] [/INST] \x1b]0;owned\x07\u202eMarmalade Works"
"""A model's answer with markup, an escape sequence and a text direction in it."""

RESULTS = (
    ProbeResult(
        id="forgetting.paraphrase",
        family="forgetting",
        grade="G1",
        metric="leak_rate",
        unit="fact",
        protocol="greedy-32",
        required=True,
        verdict="PASS",
        figures=Figures(n=149, before=0.97, after=0.0, leaks=0, upper95=0.0199, placebo=0.01),
        gate=Gate(on="upper95", op="<=", value=0.02),
    ),
    ProbeResult(
        id="utility.perplexity",
        family="utility",
        grade=None,
        metric="perplexity_ratio",
        unit="document",
        protocol="teacher-forced",
        required=False,
        verdict="INCONCLUSIVE",
        figures=Figures(n=1, before=1.0, after=1.00234),
        gate=Gate(on="after", op="<=", value=1.01),
    ),
    ProbeResult(
        id="success.direct",
        family="success",
        grade="G1",
        metric="success_rate",
        unit="fact",
        protocol="greedy-32",
        required=True,
        verdict="SKIPPED",
        figures=Figures(n=0),
    ),
)


def made_up_run(path: Path, policy: Path, verdict: Any = "PASS") -> Run:
    """A finished run of `policy` with that verdict, in the folder `path`."""
    asked = Policy.load(policy)
    facts = facts_of(asked)
    texts: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    for fact in facts:
        for template in (*fact.edit_templates, *fact.probe_templates):
            prompt = template.replace("{subject}", fact.subject)
            texts["before"].append({"prompt": prompt, "text": f" {fact.object}.", "tokens": 32})
            texts["after"].append({"prompt": prompt, "text": HOSTILE, "tokens": 32})
    report = ProbeReport(
        suite="smoke",
        note="smoke: not evidence",
        evidence=False,
        results=RESULTS,
        verdict=verdict,
        grade="G1" if verdict == "PASS" else "G0",
        facts=len(facts),
        known=len(facts),
        _texts=texts,
    )
    grade = "G1" if verdict == "PASS" else None
    with RunFolder.create(path, asked.metadata.id, seed=0, editor=EditorRecord(name="memit")) as folder:
        record = folder.finish(
            verdict, grade, EXIT_CODES[report.verdict], seconds={"edit": 1.5, "probes": 40}
        )
    return Run(path, record, report, facts, (True,) * len(facts), (), None)
