"""What other people's pipelines use: valid by its published schemas, and its shell does what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
GITLAB = yaml.safe_load((ROOT / "ci" / "gitlab.yml").read_text())
EXAMPLES = re.findall(r"```yaml\n# (\S+)\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.S)
STUB = """#!/usr/bin/env bash
printf '%s\\n' "safeedit $*" >> "$CALLS"
case "$1" in
  apply)
    while [[ $1 != --out ]]; do shift; done
    [[ ${STUB_CODE:-0} == 2 ]] || { mkdir -p "$2"; echo '{}' > "$2/run.json"; }
    exit "${STUB_CODE:-0}" ;;
  report)
    [[ $* == *"--format json"* ]] && echo '{"verdict": "FAIL", "grade": null}'
    [[ $* == *"--format md"* ]] && echo '# summary'
    exit 0 ;;
  *) exit "${STUB_CODE:-0}" ;;
esac
"""


def problems(schema: str, content: Any) -> list[str]:
    """What a published schema, as the package check-jsonschema brings it, says of some content."""
    import jsonschema

    folder = files("check_jsonschema.builtin_schemas.vendor")
    found = json.loads((folder / f"{schema}.json").read_text(encoding="utf-8"))
    checker = jsonschema.validators.validator_for(found)(found)
    # YAML 1.1 reads the key `on` as true, which no JSON has.
    return [error.message for error in checker.iter_errors(json.loads(json.dumps(content)))]


def pipeline(template: dict[str, Any]) -> dict[str, Any]:
    """A pipeline with every job of the template: the schema does not look into hidden ones."""
    return {name.removeprefix("."): job for name, job in template.items()}


def test_the_templates_are_valid() -> None:
    assert problems("github-actions", ACTION) == []
    assert problems("github-actions", {**ACTION, "runs": {"using": "whatever"}})
    assert problems("gitlab-ci", pipeline(GITLAB)) == []
    assert problems("gitlab-ci", {**pipeline(GITLAB), "x": {"script": "x", "artifacts": {"when": 3}}})


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_examples_in_the_documentation_are_valid(name: str, text: str) -> None:
    used = yaml.safe_load(text)
    kinds = {".github/workflows": "github-workflows", ".gitlab-ci.yml": "gitlab-ci"}
    schema = next((kind for start, kind in kinds.items() if name.startswith(start)), None)
    if schema is not None:
        assert problems(schema, {"on" if key is True else key: value for key, value in used.items()}) == []
    for job in used.get("jobs", {}).values():
        for step in job["steps"]:
            if "safeedit@" in step.get("uses", ""):
                assert step["with"].keys() <= ACTION["inputs"].keys()
    for job in used.values():
        if isinstance(job, dict) and "extends" in job:
            assert job["extends"] in GITLAB
            assert job.get("variables", {}).keys() <= GITLAB["variables"].keys()


def test_every_kind_of_example_is_there() -> None:
    names = {name for name, _ in EXAMPLES}
    assert names == {
        ".pre-commit-config.yaml",
        ".github/workflows/erase.yml",
        ".github/workflows/check.yml",
        ".gitlab-ci.yml",
    }


def test_the_hook_has_what_a_hook_needs() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {"id", "name", "entry", "language"} <= hook.keys()
    assert hook["entry"].startswith("safeedit lint")
    assert re.search(hook["files"], "policies/gdpr_request.yaml")
    assert not re.search(hook["files"], "probes/suites/standard.yaml")


def test_nothing_is_interpolated_into_a_script() -> None:
    """`${{ }}` in a script would run what a branch or a file is called."""
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"], step["name"]


class Runner:
    """Runs the action's steps as the runner would, with a stand-in for safeedit or with the real one."""

    def __init__(self, folder: Path, *, real: bool = False) -> None:
        self.folder, self.outputs, self.summary = folder, folder / "outputs", folder / "summary"
        self.calls, bin_folder = folder / "calls", folder / "bin"
        bin_folder.mkdir()
        for path in (self.outputs, self.summary, self.calls):
            path.touch()
        if not real:
            (bin_folder / "safeedit").write_text(STUB)
            (bin_folder / "safeedit").chmod(0o755)
        else:
            (bin_folder / "safeedit").symlink_to(Path(sys.executable).parent / "safeedit")
        self.env = {
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(self.outputs),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "RUNNER_TEMP": str(folder),
            "CALLS": str(self.calls),
        }

    def run(self, name: str, **env: str) -> subprocess.CompletedProcess[str]:
        (step,) = (step for step in ACTION["runs"]["steps"] if step["name"] == name)
        given = dict.fromkeys(step.get("env", {}), "")
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.env, **given, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def told(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.outputs.read_text().splitlines())


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")


@needs_bash
@pytest.mark.parametrize(("code", "reported"), [(0, True), (1, True), (3, True), (2, False)])
def test_a_run_is_reported_whatever_its_verdict_and_fails_by_its_code(
    tmp_path: Path, code: int, reported: bool
) -> None:
    runner = Runner(tmp_path)
    done = runner.run(
        "Work", MODE="run", POLICY="my policy.yaml", WORKSPACE="runs", MODEL="a/b", STUB_CODE=str(code)
    )
    assert done.returncode == 0, done.stderr
    told = runner.told()
    assert told["exit-code"] == str(code)
    first = runner.calls.read_text().splitlines()[0]
    assert first == f"safeedit apply --policy my policy.yaml --out {told['run']} --quiet --model a/b"
    done = runner.run("Report", RUN=told["run"], POLICY="my policy.yaml", REPORTS="out")
    assert done.returncode == 0, done.stderr
    assert ("verdict" in runner.told()) == reported
    assert (runner.summary.read_text() == "# summary\n") == reported
    if reported:
        assert runner.told()["verdict"] == "FAIL"
        assert runner.told()["grade"] == "G0"
        assert (tmp_path / "out" / "safeedit.sarif").exists()
    assert runner.run("Result", CODE=told["exit-code"]).returncode == code


@needs_bash
def test_what_a_file_is_called_runs_nothing(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    bad = "$(touch owned); touch owned `touch owned`"
    for mode in ("lint", "run", "check"):
        runner.run("Work", MODE=mode, POLICY=bad, WORKSPACE="runs", MODEL=bad, SUITE=bad, MAX_AGE=bad)
    runner.run("Work", MODE=bad)
    assert runner.told()["exit-code"] == "2"
    assert not (tmp_path / "owned").exists()


@needs_bash
def test_a_step_that_never_ran_is_a_failure(tmp_path: Path) -> None:
    assert Runner(tmp_path).run("Result").returncode == 4


@needs_bash
def test_policies_are_checked_by_the_real_command(tmp_path: Path) -> None:
    runner = Runner(tmp_path, real=True)
    shutil.copy(ROOT / "policies" / "gdpr_request.yaml", tmp_path / "one.yaml")
    (tmp_path / "two.yaml").write_text("apiVersion: safeedit/v1\nnonsense: 1\n")
    done = runner.run("Work", MODE="lint", POLICY="one.yaml\n\ntwo.yaml\n")
    assert "two.yaml:2:1: unknown key" in done.stderr
    assert runner.told()["exit-code"] == "2"


@needs_bash
@pytest.mark.parametrize("code", [0, 1])
def test_the_gitlab_jobs_do_the_same(tmp_path: Path, code: int) -> None:
    runner = Runner(tmp_path)
    values = {name: str(value) for name, value in GITLAB["variables"].items()}

    def script(job: str, **env: str) -> int:
        lines: Any = GITLAB[job]["script"]
        command = ["bash", "-eo", "pipefail", "-c", "\n".join(lines)]
        given = {**runner.env, **values, "STUB_CODE": str(code), **env}
        return subprocess.run(command, cwd=tmp_path, env=given, check=False).returncode

    assert script(".safeedit-run", SAFEEDIT_POLICY="p.yaml", CI_JOB_ID="7") == code
    assert "safeedit report runs/7 --format junit" in runner.calls.read_text()
    assert script(".safeedit-lint") == code
    assert script(".safeedit-check", SAFEEDIT_MAX_AGE="30d") == code
    told = runner.calls.read_text().splitlines()
    assert "safeedit check runs --max-age 30d" in told or code


@pytest.mark.parametrize("wrong", ["", "editor: {name: memmit}", "probes: {suite: nowhere.yaml}"])
def test_lint_finds_what_is_wrong_without_a_model(wrong: str, tmp_path: Path) -> None:
    from safeedit.runs.lint import lint

    path = tmp_path / "case.yaml"
    text = (ROOT / "policies" / "gdpr_request.yaml").read_text().split("probes:")[0]
    path.write_text(f"{text}\n{wrong}\n")
    (found,) = lint([path])
    assert found.ok == (not wrong)
    if wrong:
        assert re.match(r".*\.yaml:\d+:\d+: ", str(found.problems[0]))
        assert "Tolland" not in str(found.problems)


def test_two_policies_do_not_share_an_id(tmp_path: Path) -> None:
    from safeedit.runs.lint import lint

    for name in ("a.yaml", "b.yaml"):
        shutil.copy(ROOT / "policies" / "gdpr_request.yaml", tmp_path / name)
    first, second = lint([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert first.ok
    assert "a request has an id of its own" in second.problems[0].message
    assert all(one.ok for one in lint([tmp_path / "a.yaml", tmp_path / "a.yaml"]))
