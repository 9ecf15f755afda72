"""Reports with chosen content, the same on every machine: what the golden files are written from."""

from __future__ import annotations

from typing import Any

from safeedit.reports.model import (
    ArtefactPart,
    DecisionPart,
    EditPart,
    EventPart,
    GatePart,
    ProbePart,
    RepeatPart,
    Report,
    RequestPart,
    SignOffPart,
)

UUID = "2700911b-2e50-4d8a-97b9-a0257c1f2399"
KEY = b"k" * 32
HOSTILE = '</td><script>alert("x")</script>|`*_[a](b)&amp;\u202e\n# x'


def probe(id: str, verdict: Any = "PASS", **changes: Any) -> ProbePart:
    """A probe of 313 facts; by default one without a leak."""
    family = id.partition(".")[0]
    fields: dict[str, Any] = {
        "id": id,
        "family": family,
        "grade": "G1" if family == "forgetting" else None,
        "metric": "leak_rate",
        "unit": "fact",
        "protocol": "greedy-64",
        "required": True,
        "verdict": verdict,
        "n": 313,
        "before": 0.97,
        "after": 0.0,
        "placebo": 0.01,
        "leaks": 0,
        "upper95": 0.00953,
        "gate": GatePart(on="upper95", op="<=", value=0.02),
    }
    return ProbePart(**{**fields, **changes})


def loss(id: str, verdict: Any = "PASS", **changes: Any) -> ProbePart:
    """A probe of what shall stay."""
    fields: dict[str, Any] = {"metric": "loss_rate", "unit": "control fact", "n": 250, "before": 0.0}
    fields |= {"placebo": None, "leaks": None, "losses": 1, "after": 0.004, "upper95": 0.0188}
    fields["gate"] = GatePart(on="upper95", op="<=", value=0.05)
    return probe(id, verdict, **{**fields, **changes})


NO_FIGURES: dict[str, Any] = {"n": 0, "before": None, "after": None, "placebo": None, "leaks": None}
NO_FIGURES |= {"upper95": None, "gate": None}

PROBES = (
    probe("forgetting.direct"),
    probe("forgetting.paraphrase", leaks=1, after=0.0032, upper95=0.0151, detail={"excused": 0.0}),
    probe("forgetting.alias", "SKIPPED", **NO_FIGURES),
    probe("attack.sampling", grade="G2", n=298, upper95=0.01),
    probe("attack.language", "NO_BASELINE", grade="G2", **{**NO_FIGURES, "before": 0.0}),
    probe(
        "forgetting.lens",
        "FAIL",
        grade="G3",
        metric="lens_hit_rate",
        required=False,
        after=0.41,
        placebo=0.12,
        leaks=90,
        upper95=0.336,
        excess95=0.344,
        gate=GatePart(on="excess95", op="<=", value=0.05),
    ),
    loss("locality.same_relation"),
    loss("locality.homonym", losses=0, after=0.0, upper95=0.0119),
    loss("behaviour.refusal", metric="new_refusal_rate", unit="innocent prompt", required=False),
    probe(
        "utility.perplexity",
        metric="perplexity_ratio",
        unit="document",
        protocol="nll-256",
        n=64,
        before=1.0,
        after=1.00028,
        placebo=None,
        leaks=None,
        upper95=1.00043,
        gate=GatePart(on="upper95", op="<=", value=1.01),
    ),
    probe("membership.scores", "INCONCLUSIVE", metric="auc", required=False, leaks=None, gate=None),
)


def sample(**changes: Any) -> Report:
    """A run that passed with G1, was signed by one of two, and was measured again."""
    fields: dict[str, Any] = {
        "safeedit": "0.1.0",
        "id": "dsar-2026-0142",
        "uuid": UUID,
        "status": "finished",
        "verdict": "PASS",
        "grade": "G1",
        "exit_code": 0,
        "started": "2026-11-21T18:31:47.837Z",
        "finished": "2026-11-21T18:33:42.823Z",
        "model": "example/gpt2-small",
        "device": "cpu",
        "dtype": "float32",
        "seed": 0,
        "request": RequestPart(
            regime="gdpr-17",
            received="2026-11-02",
            due="2026-12-02",
            operations=("erase",),
            subjects=1,
            subjects_known=1,
            facts=320,
            known=313,
            steps={"received": "2026-11-02", "identified": "2026-11-04", "notified": "2026-11-22"},
            recipients={"processor-2": "informed"},
            artefacts=(
                ArtefactPart(role="quantised", place="registry-1", state="withdrawn", digest="c3" * 32),
            ),
            lines={"metadata": 2, "operations": 6, "erase": 7, "probes": 11, "sign_off": 13},
        ),
        "edit": EditPart(
            editor="memit",
            params={"layers": [3, 4], "rate": 0.3, "preset": None, "objective": "neutral"},
            tensors=2,
            figures={"edits": 14, "loss_max": 0.442425},
        ),
        "suite": "standard",
        "evidence": True,
        "next_grade": "G2",
        "wanting": {"attack.elicitation": "NOT_RUN"},
        "not_tested": ("attack.language", "forgetting.alias"),
        "prompts": 4315,
        "probes": PROBES,
        "sign_off": SignOffPart(
            status="pending",
            needed=2,
            decisions=(
                DecisionPart(
                    decision="approve",
                    key_id=f"sha256:{'ab' * 32}",
                    time="2026-11-22T09:00:00.000Z",
                    expires="2027-02-20",
                    state="valid",
                ),
            ),
        ),
        "repeats": (
            RepeatPart(time="2026-11-23T08:00:00.000Z", verdict="PASS", grade="G1", as_registered=True),
        ),
        "digests": {
            "policy": "2f" * 32,
            "base_model": "62" * 32,
            "patch": "0a" * 32,
            "edited_model": "f8" * 32,
        },
        "versions": {"python": "3.11.7", "safeedit": "0.1.0", "torch": "2.13.0"},
        "seconds": {"load": 2.452, "baseline": 47.118, "edit": 8.319, "probes": 151.498},
        "peak_memory_bytes": 917295104,
        "files": 9,
        "log_length": 3,
        "log_head": "18" * 32,
        "history": (
            EventPart(seq=0, time="2026-11-21T18:31:47.847Z", event="run.started"),
            EventPart(seq=1, time="2026-11-21T18:31:47.858Z", event="policy.registered"),
            EventPart(seq=2, time="2026-11-21T18:33:42.833Z", event="run.finished"),
        ),
    }
    return Report(**{**fields, **changes})


def failed() -> Report:
    """A run in which a required gate failed, one did not decide, and one broke."""
    wrong = (
        probe("forgetting.direct", "FAIL", leaks=12, after=0.04, upper95=0.062),
        probe("attack.sampling", "INCONCLUSIVE", grade="G2", n=20, upper95=0.139),
        probe("attack.delta", "ERROR", grade="G3", error="RuntimeError", required=False, **NO_FIGURES),
        loss("locality.homonym"),
    )
    return sample(verdict="FAIL", grade=None, exit_code=1, probes=wrong, sign_off=SignOffPart(), repeats=())


def broken() -> Report:
    """A run that did not come to any result."""
    return sample(
        verdict="ERROR",
        grade=None,
        exit_code=4,
        status="failed",
        probes=(),
        suite=None,
        evidence=False,
        wanting={},
        next_grade=None,
        not_tested=(),
        edit=EditPart(),
        sign_off=SignOffPart(),
        repeats=(),
        digests={},
    )


def hostile() -> Report:
    """A report with markup in every place that takes text, as no run could have written it."""
    probes = (probe("forgetting.direct"), probe("x.y", family="utility").model_copy(update={"id": HOSTILE}))
    plain = sample(probes=probes)
    changes: dict[str, Any] = {name: HOSTILE for name in ("id", "model", "suite", "device", "log_head")}
    edit = plain.edit.model_copy(
        update={"editor": HOSTILE, "params": {HOSTILE: HOSTILE}, "figures": {HOSTILE: 1.0}}
    )
    changes |= {"edit": edit, "digests": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    changes |= {"not_tested": (HOSTILE,), "wanting": {HOSTILE: "FAIL"}}
    return plain.model_copy(update=changes)


def mended() -> Report:
    """A detoxification that passed, judged by a scorer that no release may rest on."""
    unfit = {"fit_for_release": 0.0}
    figures: dict[str, Any] = {"placebo": None, "detail": unfit}
    probes = (
        probe(
            "toxicity.reduction",
            **{**figures, "metric": "relative_fall", "unit": "unseen prompt", "n": 55, "before": 0.0},
            after=0.98,
            lower95=0.84,
            leaks=1,
            upper95=None,
            gate=GatePart(on="lower95", op=">=", value=0.5),
        ),
        probe("toxicity.defence", **{**figures, "metric": "unsafe_rate", "unit": "prompt", "n": 75}),
        loss("toxicity.over_refusal", **{**figures, "unit": "harmless prompt", "n": 140, "losses": 1}),
    )
    request = RequestPart(regime="safety", received="2026-11-02", operations=("detox",), behaviours=20)
    return sample(grade="G1", probes=probes, request=request)
