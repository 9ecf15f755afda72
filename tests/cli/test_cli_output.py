"""What is printed of a result: for people at several widths, for programs, and nothing personal unasked."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_types import SCRIPT, Command, WritePolicy
from made_up_runs import made_up_run
from policies_in_text import CANARIES, ERASURE, MODIFICATION

import safeedit.runs.execute as execute
from safeedit.errors import EditorError, ModelError

Erase = Callable[..., Any]

UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def erase(safeedit: Command, policy: WritePolicy, here: Path, monkeypatch: pytest.MonkeyPatch) -> Erase:
    """`safeedit erase` of a run that was made up, with the flags given."""

    def run(*words: str, verdict: str = "PASS", text: str = ERASURE, verb: str = "erase") -> Any:
        path = policy(text)
        number = len(list(here.iterdir()))

        def apply(*_: object, progress: Any = None, **__: object) -> object:
            if progress is not None:
                progress("baseline", 0, 3)
                progress("baseline", 3, 3)
            return made_up_run(Path(f"run-{number}"), path, verdict)

        monkeypatch.setattr(execute, "apply", apply)
        return safeedit(verb, "--policy", path, *words)

    return run


@pytest.mark.parametrize(
    ("verdict", "code"), [("PASS", 0), ("FAIL", 1), ("INCONCLUSIVE", 3), ("NO_BASELINE", 3), ("ERROR", 4)]
)
def test_the_exit_code_follows_the_verdict(verdict: str, code: int, erase: Erase) -> None:
    done = erase(verdict=verdict)
    assert done.code == code
    assert re.search(rf"^\S {verdict} ", done.out, re.MULTILINE)
    told = erase("--json", verdict=verdict).json()
    assert (told["verdict"], told["exit_code"]) == (verdict, code)


def test_the_table_says_what_was_measured(erase: Erase) -> None:
    lines = erase().out.splitlines()
    (row,) = (line for line in lines if "97 %" in line)
    assert re.search(r"97 % +0 % +1 % +bound 1.99 % +✓ PASS$", row)
    text = " ".join(" ".join(lines).split())
    assert "Erased facts are not said to phrasings" in text
    assert "forgetting.paraphrase, 149 facts" in text
    assert "gate ≤ 2 %" in text
    assert "after 1.002" in text
    assert "1 document, not required" in text
    assert "nothing to test: success.direct" in text


def test_the_end_says_verdict_grade_seconds_folder_and_what_comes_next(erase: Erase) -> None:
    end = erase().out.splitlines()[-5:]
    assert end == [
        "✓ PASS grade G1, 41.5 s",
        "Every required gate passed.",
        "smoke: not evidence",
        "run     run-0",
        "next    safeedit verify run-0",
    ]


def test_nothing_personal_is_shown_unasked(erase: Erase) -> None:
    for words in ((), ("--json",), ("--quiet",)):
        for text, verb in ((ERASURE, "erase"), (MODIFICATION, "modify")):
            done = erase(*words, text=text, verb=verb)
            assert not any(canary in done.out + done.err for canary in CANARIES)
            assert len(re.findall(r"hmac:[0-9a-f]{12}\b", done.out)) >= 2


def test_plain_text_is_shown_if_asked_for(erase: Erase) -> None:
    out = erase("--show-sensitive").out
    assert "Zebulon Quackenbush" in out
    assert "hmac:" not in out
    (fact,) = erase("--show-sensitive", "--json").json()["facts"]
    assert (fact["subject"], fact["object"]) == ("Zebulon Quackenbush", "Xylographic Marmalade Works")
    told = erase("--show-sensitive", text=MODIFICATION, verb="modify").out
    assert "glockenspiel-77" in told


def test_what_was_said_is_counted(erase: Erase) -> None:
    (fact,) = erase("--json").json()["facts"]
    assert fact["known"]
    assert fact["prompts"] > 5
    assert (fact["said_before"], fact["said_after"]) == (fact["prompts"], 0)
    (changed,) = erase("--json", text=MODIFICATION, verb="modify").json()["facts"]
    assert (changed["said_before"], changed["said_after"]) == (0, 0)


@pytest.mark.parametrize("flags", [(), ("--show-sensitive",)], ids=["plain", "sensitive"])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_text_is_wider_than_the_terminal(
    width: int, flags: tuple[str, ...], erase: Erase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = erase(*flags).out
    # The last lines hold a path or a command to be copied, and are never broken.
    assert [line for line in out.splitlines()[:-2] if len(line) > max(width, 60)] == []
    words = " ".join(out.split())
    for expected in ("97 %", "bound 1.99 %", "✓ PASS", "said before", "0 %"):
        assert expected in words


def test_an_answer_cannot_steer_the_terminal(erase: Erase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = erase("--show-sensitive").out
    assert "[red]Xylographic[/red] [/INST] \\u001b" in out
    assert not UNSAFE.search(out)


def test_colour_only_if_wanted(erase: Erase, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in erase().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert re.search(r"\x1b\[[0-9;]*32m", erase().out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", erase().out)


def test_progress_is_a_line_for_each_stage_on_standard_error(erase: Erase) -> None:
    assert erase().err == "asking the model before the edit …\n"
    assert erase("--json").err == "asking the model before the edit …\n"


def test_quiet_leaves_the_result_alone(erase: Erase) -> None:
    done = erase("--quiet")
    assert done.err == ""
    assert "PASS" in done.out


def test_json_is_one_object_and_nothing_else(erase: Erase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = erase("--json")
    told = done.json()
    assert told["run"] == "run-0"
    assert told["probes"]["results"][0]["upper95"] == 0.0199
    assert done.out.endswith("}\n")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (EditorError("no finite result was reached"), "editor", 4),
        (ModelError("the model has no blocks"), "model", 4),
        (KeyboardInterrupt(), "interrupted", 130),
        (RuntimeError("about Zebulon Quackenbush"), "unexpected", 4),
        (FileNotFoundError(2, "no such file", "Zebulon Quackenbush"), "unexpected", 4),
        (MemoryError(), "unexpected", 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_failure_is_told_in_words(
    error: BaseException,
    kind: str,
    code: int,
    safeedit: Command,
    policy: WritePolicy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(execute, "apply", fail)
    done = safeedit("erase", "--policy", policy(ERASURE))
    assert (done.code, done.out) == (code, "")
    first, *_, last = done.err.splitlines()
    assert first.startswith("╷ Error: ")
    assert last.startswith("╵ ")
    assert "Traceback" not in done.err
    told = safeedit("erase", "--policy", policy(ERASURE), "--json")
    assert (told.code, told.err) == (code, "")
    assert (told.json()["error"]["kind"], told.json()["exit_code"]) == (kind, code)
    if kind == "unexpected":
        assert type(error).__name__ in first
        assert "Quackenbush" not in done.err + told.out


def test_the_whole_error_is_shown_for_debugging_only(
    safeedit: Command, policy: WritePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the middle of it")

    monkeypatch.setattr(execute, "apply", fail)
    assert "the middle of it" not in safeedit("erase", "--policy", policy(ERASURE)).err
    monkeypatch.setenv("SAFEEDIT_DEBUG", "1")
    err = safeedit("erase", "--policy", policy(ERASURE)).err
    assert "Traceback" in err
    assert "the middle of it" in err


def test_a_reader_who_leaves_does_not_change_the_exit_code(here: Path) -> None:
    command = f"{SCRIPT} world show --show-sensitive | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_a_poor_encoding_is_survived(process: Command, here: Path) -> None:
    (here / "Ærø").mkdir()
    done = process("runs", "Ærø", env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.out, done.err) == (0, "no runs in \\xc6r\\xf8\n", "")
    listed = process("probes", env={"PYTHONIOENCODING": "ascii"})
    assert listed.code == 0
    assert listed.out.isascii()


def test_the_world_shows_its_people_only_if_asked(safeedit: Command) -> None:
    from safeedit.world.registry import reference_world

    person = reference_world().people[0].name
    assert person not in safeedit("world", "show").out
    assert person not in safeedit("world", "show", "--json").out
    assert person in safeedit("world", "show", "--show-sensitive").out
    told = safeedit("world", "show", person, "--show-sensitive", "--json").json()
    assert {fact["subject"] for fact in told["facts"]} == {person}


def test_training_passes_on_what_it_was_asked(safeedit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import safeedit.world.train as training

    asked = []

    def train(out: Path, recipe: Any, progress: Any) -> None:
        asked.append((out, recipe.seed, recipe.steps))
        progress(7, 1.25)

    monkeypatch.setattr(training, "train_reference", train)
    told = safeedit("world", "train", "--out", "new", "--seed", "3", "--steps", "7", "--json")
    assert asked == [(Path("new"), 3, 7)]
    assert (told.json()["loss"], told.err) == (1.25, "training …\n")


def test_json_never_holds_what_is_no_number() -> None:
    code = "from safeedit_cli.output import write_json; write_json({'x': float('nan')})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
