"""Reports of real run folders: what is read, what is refused, what the log tells afterwards."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from safeedit.errors import IntegrityError, UsageError
from safeedit.evidence.ledger import LEDGER
from safeedit.evidence.shred import shred
from safeedit.policy.lines import policy_lines
from safeedit.probes.gates import Gate
from safeedit.reports.gather import gather
from safeedit.reports.publish import FORMATS, _uri_of, publish, render
from safeedit.runs.folder import RunFolder
from safeedit.runs.lock import RunLock
from safeedit.runs.record import EditorRecord
from safeedit.runs.verify import verify_run

CANARIES = ("Zebulon Quackenbush", "Quackenbush", "Xylographic", "+99 555 0199 4471")
POLICY = """\
apiVersion: safeedit/v1
metadata:
  id: dsar-7
  regime: gdpr-17
  received: 2026-11-02
  description: about Zebulon Quackenbush
operations:
  - op: modify
    facts: []
  - op: erase
    subjects: [{name: Zebulon Quackenbush}]
probes:
  suite: standard
"""


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEEDIT_STATE_DIR", str(tmp_path / "state"))


def results() -> list[dict[str, Any]]:
    gate = Gate(on="leaks", op="<=", value=0)
    one: dict[str, Any] = {"id": "forgetting.direct", "family": "forgetting", "grade": "G1"}
    one |= {"metric": "leak_rate", "unit": "fact", "before": 1.0, "after": 0.0, "n": 3, "leaks": 0}
    one |= {"upper95": 0.632, "placebo": 0.0, "gate": {"op": gate.op, "value": 0.0, "on": gate.on}}
    one |= {"verdict": "PASS", "protocol": "greedy-64", "required": True}
    return [{**one, "detail": {"excused": 0, "leak@5": 0.0, "Zebulon Quackenbush": 1.0}}]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose vault, and whose folder of files, hold canaries where they may be."""
    path = tmp_path / "workspace" / "run"
    content: dict[str, Any] = {"suite": "standard", "evidence": True, "verdict": "PASS", "grade": "G1"}
    content |= {"facts": {"n": 3, "known": 3}, "not_tested": ["forgetting.alias"], "results": results()}
    content["next"] = {"grade": "G2", "wanting": {"attack.sampling": "NOT_RUN"}}
    with RunFolder.create(path, "dsar-7", seed=0, dtype="float32", device="cpu") as folder:
        folder.vault.put("request", {"text": POLICY})
        policy = folder.redactor.commitment({"text": POLICY})
        told: dict[str, Any] = {"policy": policy, "regime": "gdpr-17", "received": "2026-11-02"}
        told |= {"due": "2026-12-02", "kinds": ["modify", "erase"], "facts": 0, "subjects": 1}
        told |= {"approvers": 0, "assurance": None, "lines": policy_lines(POLICY)}
        folder.update("policy.registered", told, digests={"policy": policy})
        folder.note("probes.registered", prompts=120)
        params = {"layers": [3, 4], "note": folder.redactor.digest(CANARIES[0])}
        folder.update(
            "edit.made", {"figures": {"edits": 3}}, editor=EditorRecord(name="memit", params=params)
        )
        (folder.path / "patch").mkdir()
        (folder.path / "patch" / "patch.json").write_text('{"deltas": {"a": {}, "b": {}}}')
        (folder.path / "probes.json").write_text(json.dumps(content))
        folder.finish("PASS", "G1", 0, seconds={"edit": 1.5}, digests={"patch": "1" * 64})
    return path


def test_everything_is_read(run: Path) -> None:
    report = gather(run)
    assert (report.verdict, report.grade, report.status) == ("PASS", "G1", "finished")
    assert (report.request.facts, report.request.known, report.request.subjects) == (3, 3, 1)
    assert report.request.lines == {"metadata": 2, "operations": 7, "modify": 8, "erase": 10, "probes": 12}
    assert (report.edit.editor, report.edit.tensors) == ("memit", 2)
    assert report.probes[0].detail == {"excused": 0, "leak@5": 0.0}
    assert report.sign_off.status == "none"
    assert report.log_length == len(report.history) == len(RunFolder.open(run).log.entries())


def test_people_of_whom_the_model_said_nothing_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "w" / "run"
    content = {"facts": {"n": 1, "known": 1}, "subjects": {"n": 2, "known": 1}, "results": results()}
    with RunFolder.create(path, "x") as folder:
        folder.note("policy.registered", regime="internal", received="2026-11-02", subjects=2)
        (folder.path / "probes.json").write_text(json.dumps(content))
        folder.finish("PASS", "G1", 0)
    assert (gather(path).request.subjects, gather(path).request.subjects_known) == (2, 1)
    assert "1 of the 2 people asked about" in publish(path, "md")[0]


@pytest.mark.parametrize("format", FORMATS)
def test_no_report_holds_anything_personal(run: Path, format: Any) -> None:
    text = render(gather(run), format)
    assert not [canary for canary in CANARIES if canary in text]
    assert "description" not in text or format == "cyclonedx"


def test_html_goes_into_the_run_and_the_seal_holds(run: Path) -> None:
    text, path = publish(run, "html")
    assert path == run / "report.html"
    assert path.read_text(encoding="utf-8") == text
    assert verify_run(run).ok, verify_run(run).findings
    last = RunFolder.open(run).log.entries()[-1]
    assert last.event == "report.written"
    assert last.data["format"] == "html"
    publish(run, "html")
    assert verify_run(run).ok
    path.write_text(text + " ")
    assert [found.file for found in verify_run(run).findings] == ["report.html"]


def test_what_passes_through_leaves_no_trace(run: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(run.parent.rglob("*")) if path.is_file()}
    for format in FORMATS[1:]:
        assert publish(run, format)[1] is None
    assert {path: path.read_bytes() for path in sorted(run.parent.rglob("*")) if path.is_file()} == before


def test_what_is_written_elsewhere_is_told(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "summary.md"
    text, path = publish(run, "md", out)
    assert path == out
    assert out.read_text(encoding="utf-8") == text
    assert RunFolder.open(run).log.entries()[-1].data["format"] == "md"
    assert (run.parent / LEDGER).read_text().count("report.written") == 1
    assert verify_run(run).ok


def test_a_report_that_cannot_be_told_of_does_not_appear(run: Path, tmp_path: Path) -> None:
    lock = RunLock(run)
    with pytest.raises(UsageError, match="is writing this run"):
        publish(run, "md", tmp_path / "summary.md")
    lock.release()

    def full(*given: object, **more: object) -> None:
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "update", full)
        with pytest.raises(OSError, match="no space"):
            publish(run, "md", tmp_path / "summary.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "workspace"]
    with pytest.raises(UsageError, match="for sarif"):
        publish(run, "md", policy=tmp_path / "case.yaml")


def test_a_run_that_does_not_verify_has_no_report(run: Path) -> None:
    content = (run / "probes.json").read_text().replace('"leaks": 0', '"leaks": 9')
    (run / "probes.json").write_text(content)
    with pytest.raises(IntegrityError, match="does not verify"):
        publish(run, "html")
    assert not (run / "report.html").exists()


def test_a_run_that_is_not_finished_has_no_report(tmp_path: Path) -> None:
    path = tmp_path / "w" / "run"
    with RunFolder.create(path, "x") as folder:
        with pytest.raises(UsageError, match="is writing this run"):
            gather(path)
        folder.abort(KeyboardInterrupt())
    with pytest.raises(UsageError, match="not finished"):
        gather(path)


def test_a_run_that_failed_has_a_report_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "w" / "run"
    with pytest.raises(RuntimeError), RunFolder.create(path, "x"):
        raise RuntimeError(CANARIES[0])
    report = gather(path)
    assert (report.verdict, report.status, report.probes) == ("ERROR", "failed", ())
    for format in FORMATS:
        assert CANARIES[0] not in render(report, format)
    assert "ERROR" in render(report, "html")


def test_a_report_outlives_the_vault(run: Path) -> None:
    before = gather(run)
    shred(run)
    after = gather(run)
    assert after.vault_shredded
    assert after.probes == before.probes
    assert "was destroyed" in publish(run, "html")[0]
    assert verify_run(run).ok


def test_results_that_no_run_writes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w" / "run"
    with RunFolder.create(path, "x") as folder:
        (folder.path / "probes.json").write_text(json.dumps({"results": [{"id": CANARIES[0]}]}))
        folder.finish("PASS", "G1", 0)
    with pytest.raises(IntegrityError) as caught:
        gather(path)
    assert CANARIES[0] not in str(caught.value)


@pytest.mark.parametrize("where", ["run/patch/report.md", "run/report.html", "nowhere/report.md", "run"])
def test_a_place_that_cannot_be_written_is_refused(run: Path, where: str) -> None:
    with pytest.raises(UsageError):
        publish(run, "md", run.parent / where)
    assert verify_run(run).ok


def test_sarif_takes_the_lines_of_the_policy_that_is_given(run: Path, tmp_path: Path) -> None:
    policy = tmp_path / "case.yaml"
    policy.write_text("# one more line\n" + POLICY)
    content = json.loads(publish(run, "sarif", policy=policy)[0])
    assert content["runs"][0]["results"] == []
    (tmp_path / "none.yaml").write_text("x")
    for folder, expected in (
        (tmp_path, "case.yaml"),
        (tmp_path / "my repository" / "a b", "a%20b/case.yaml"),
    ):
        (folder / "case.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "my repository" / ".git").mkdir(parents=True, exist_ok=True)
        (folder / "case.yaml").write_text(POLICY)
        assert _uri_of(folder / "case.yaml") == expected
    with pytest.raises(UsageError, match="no policy that can be read"):
        publish(run, "sarif", policy=tmp_path / "none.yaml")


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    (script,) = entry_points(group="console_scripts", name="safeedit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["safeedit", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            script.load()()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, "report", run, "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["verdict"] == "PASS"
    code, out, err = command(capsys, "report", run)
    assert (code, out) == (0, "")
    assert err == f"written to {run / 'report.html'}\n"
    code, out, _ = command(capsys, "report", run, "--format", "junit", "-o", tmp_path / "junit.xml")
    assert (code, out) == (0, "")
    assert (tmp_path / "junit.xml").read_text().startswith("<?xml")
    assert command(capsys, "report", run, "--format", "pdf")[0] == 2
    assert command(capsys, "report", tmp_path)[0] == 2
    (run / "probes.json").write_text("{}")
    assert command(capsys, "report", run)[0] == 5


def test_requests_and_check_on_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.parent
    code, out, _ = command(capsys, "requests", folder, "--json")
    (request,) = json.loads(out)["requests"]
    assert code == 0
    assert (request["id"], request["due"]) == ("dsar-7", "2026-12-02")
    assert [block["code"] for block in request["blocks"]][-1] == "not-answered"
    code, out, err = command(
        capsys,
        "request",
        "notified",
        "dsar-7",
        "--recipient",
        "Zebulon",
        "--status",
        "informed",
        "--in",
        folder,
    )
    assert (code, out) == (2, "")
    assert "Zebulon" not in err
    assert (
        command(
            capsys,
            "request",
            "notified",
            "dsar-7",
            "--recipient",
            "mirror-1",
            "--status",
            "pending",
            "--in",
            folder,
        )[0]
        == 0
    )
    assert "mirror-1" in command(capsys, "requests", folder)[1]
    code, out, _ = command(capsys, "check", folder, "--max-age", "30d", "--json")
    assert json.loads(out)["exit_code"] == code
    (run / "probes.json").write_text("{}")
    assert command(capsys, "check", folder)[0] == 5
