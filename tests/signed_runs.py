"""Finished runs of any verdict, small and without a model, for tests of what is signed over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from safeedit.evidence.attestation import ATTESTATION, Attestation
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.signing import SigningKey
from safeedit.evidence.signoff import decide, standing_of
from safeedit.runs.folder import RunFolder
from safeedit.runs.record import EditorRecord

ALICE, BOB, EVE = SigningKey.generate("ed25519"), SigningKey.generate("ecdsa-p256"), SigningKey.generate()
RING = Keyring.of(ALICE.public, BOB.public)

PROBE: dict[str, Any] = {
    "id": "forgetting.paraphrase",
    "family": "forgetting",
    "grade": "G1",
    "metric": "leak_rate",
    "unit": "fact",
    "before": 0.97,
    "after": 0.0,
    "n": 149,
    "leaks": 0,
    "upper95": 0.0199,
    "placebo": 0.01,
    "gate": {"op": "<=", "value": 0.02, "on": "upper95"},
    "verdict": "PASS",
    "protocol": "greedy-64",
    "required": True,
    "detail": {},
}
ADVICE: dict[str, Any] = {**PROBE, "id": "membership.scores", "family": "membership", "required": False}
ADVICE |= {"unit": "control fact", "gate": None, "verdict": "INCONCLUSIVE", "upper95": None}


class Clock:
    """A clock that goes on by a second whenever it is read, and can be set."""

    def __init__(self, now: datetime = datetime(2026, 11, 2, 12, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def shifted(self, **by: float) -> Callable[[], datetime]:
        """Another clock that stands still, so much ahead of this one."""
        then = self.now + timedelta(**by)
        return lambda: then


def make_run(
    path: Path,
    clock: Clock,
    *,
    verdict: Any = "PASS",
    approvers: int = 2,
    op: str = "erase",
    evidence: bool = True,
    people: tuple[int, int] | None = None,
) -> Path:
    """A finished run in the folder `path`; `people` are those asked about and those that are known."""
    failed = verdict == "FAIL"
    results = [{**PROBE, "verdict": "FAIL" if failed else "PASS", "leaks": 3 * failed}, ADVICE]
    content = {
        "suite": "standard",
        "evidence": evidence,
        "verdict": verdict,
        "grade": "G1" if verdict == "PASS" else "G0",
        "facts": {"n": 150, "known": 149},
        "next": None,
        "not_tested": ["attack.relearning"],
        "results": results,
    }
    if people is not None:
        content["subjects"] = {"n": people[0], "known": people[1]}
    with RunFolder.create(path, "dsar-2026-0142", clock=clock, seed=1, dtype="float32") as run:
        policy = run.redactor.commitment({"subject": "Zebulon Quackenbush"})
        run.vault.put("request", {"subject": "Zebulon Quackenbush"})
        run.update(
            "policy.registered",
            {
                "policy": policy,
                "regime": "gdpr-17",
                "received": "2026-11-02",
                "due": "2026-12-02",
                "kinds": [op],
                "approvers": approvers,
                "assurance": "G1",
            },
            digests={"policy": policy, "base_model": "0" * 64},
            editor=EditorRecord(name="memit", params={"layers": [3, 4]}),
        )
        run.note("probes.registered", suite="standard", prompts=1200)
        (run.path / "patch").mkdir()
        (run.path / "patch" / "patch.safetensors").write_bytes(bytes(range(256)))
        (run.path / "patch" / "patch.json").write_text('{"format": "safeedit.patch/1"}\n')
        (run.path / "probes.json").write_text(json.dumps(content, indent=2))
        grade = "G1" if verdict == "PASS" else None
        code = {"PASS": 0, "FAIL": 1, "ERROR": 4}.get(verdict, 3)
        run.finish(verdict, grade, code, digests={"patch": "1" * 64, "edited_model": "2" * 64})
    return path


def approve(run: Path, key: SigningKey, clock: Any, ring: Keyring = RING, **more: Any) -> Any:
    return decide(run, key, "approve", trusted=ring, clock=clock, **more)


def probe_again(run: Path, clock: Any, verdict: str, *, as_registered: bool = True) -> None:
    """A later measurement of the run, as its log tells of one."""
    data = {"suite": "standard", "as_registered": as_registered, "verdict": verdict, "grade": "G0"}
    RunFolder.open(run, clock).update("probes.repeated", data)


def states(run: Path, clock: Any, ring: Keyring = RING) -> list[str]:
    return [one.state for one in standing_of(run, ring, clock).decisions]


def reseal(run: Path, clock: Any, kept: Attestation) -> None:
    RunFolder.open(run, clock).update("report.written", {}, files={ATTESTATION: kept.to_bytes()})
