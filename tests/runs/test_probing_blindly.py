from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_cases import JOB, NEW_JOB

import safeedit
from safeedit.errors import UsageError
from safeedit.evidence.blindprobe import BlindReport, probe_blindly
from safeedit.evidence.shred import destroy_matcher, shred
from safeedit.runs.folder import RunFolder
from safeedit.runs.keys import KeyMissingError, key_path
from safeedit.runs.verify import verify_run


@pytest.fixture(autouse=True)
def _own_key(modified: Any) -> Iterator[None]:
    """All copies of the run have one key, which other tests need again."""
    place = key_path(modified.record.uuid)
    kept = place.read_bytes()
    yield
    place.write_bytes(kept)


ASKED = {**JOB, "object": "whatever", "new_object": "something"}


def test_a_shredded_run_can_be_probed_with_the_names_alone(modified_copy: Path, write_policy: Any) -> None:
    shred(modified_copy, keep_matcher=True)
    with pytest.raises(KeyMissingError):
        safeedit.probe(modified_copy)
    policy = write_policy("modify", facts=[ASKED])
    found = probe_blindly(modified_copy, policy, device="cpu")
    assert (found.facts, found.asked, found.known, found.leaks) == (1, 1, 1, 0)
    assert (found.verdict, found.exit_code) == ("PASS", 0)
    assert found.upper95 == pytest.approx(0.95)
    told = RunFolder.open(modified_copy).log.entries()[-1]
    assert told.event == "probes.blind"
    assert {**told.data, **found.to_json()} == told.data
    assert verify_run(modified_copy).ok


def test_what_the_model_still_says_is_found(given: Any, tmp_path: Path, write_policy: Any) -> None:
    run = safeedit.apply(
        write_policy("modify", facts=[{**JOB, "new_object": NEW_JOB}]),
        given.pair,
        tmp_path / "run",
        editor="idle",
    )
    shred(run.path, keep_matcher=True)
    found = probe_blindly(run.path, write_policy("modify", facts=[ASKED]), base=given.pair, device="cpu")
    assert (found.known, found.leaks, found.verdict, found.exit_code) == (1, 1, "FAIL", 1)


def test_a_name_that_the_run_was_not_about_is_no_pass(modified_copy: Path, write_policy: Any) -> None:
    shred(modified_copy, keep_matcher=True)
    policy = write_policy("modify", facts=[{**ASKED, "subject": "Nobody Inparticular"}])
    with pytest.raises(UsageError, match="none of the policy's names") as caught:
        probe_blindly(modified_copy, policy, device="cpu")
    assert "Nobody" not in str(caught.value)


def test_without_a_matcher_nothing_can_be_probed(modified_copy: Path, write_policy: Any) -> None:
    policy = write_policy("modify", facts=[ASKED])
    shred(modified_copy)
    with pytest.raises(UsageError, match="has no matcher"):
        probe_blindly(modified_copy, policy, device="cpu")


def test_a_matcher_whose_key_is_gone_says_so(modified_copy: Path, write_policy: Any) -> None:
    policy = write_policy("modify", facts=[ASKED])
    shred(modified_copy, keep_matcher=True)
    destroy_matcher(modified_copy)
    with pytest.raises(KeyMissingError, match="matcher"):
        probe_blindly(modified_copy, policy, device="cpu")


@pytest.mark.parametrize(
    ("facts", "known", "leaks", "verdict"),
    [
        (3, 3, 0, "PASS"),
        (3, 2, 0, "INCONCLUSIVE"),
        (3, 0, 0, "INCONCLUSIVE"),
        (3, 3, 1, "FAIL"),
        (0, 0, 0, "INCONCLUSIVE"),
    ],
)
def test_silence_and_not_knowing_are_no_pass(facts: int, known: int, leaks: int, verdict: str) -> None:
    assert BlindReport(facts, facts, known, leaks, 9).verdict == verdict
