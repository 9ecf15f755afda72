"""Choices: what stands in a policy, what a caller asks for, and where things are looked for and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_cases import MUSIC

import safeedit
from safeedit.editors import get
from safeedit.errors import UsageError
from safeedit.policy import Policy
from safeedit.runs.corpus import chosen_corpus
from safeedit.runs.folder import RunFolder
from safeedit.runs.listing import list_runs
from safeedit.runs.machine import Stopwatch, versions
from safeedit.runs.options import (
    cache_folder,
    chosen_editor,
    default_out,
    read_request,
    suite_source,
)

SUITE = (
    "name: own\nevidence: false\nprobes:\n"
    "  - {id: forgetting.direct, gates: [{on: leaks, op: <=, value: 0}]}\n"
)


class TestEditor:
    @pytest.fixture
    def request_(self, write_policy: Any) -> Any:
        params = {"steps": 7, "clamp": 0.5}
        return read_request(
            write_policy(facts=[MUSIC], extra={"editor": {"name": "memit", "params": params}})
        )

    def test_the_policy_s_editor_and_the_caller_s_settings_over_it(self, request_: Any) -> None:
        params: Any = chosen_editor(request_, None, {"clamp": 2.0}).params
        assert (params.steps, params.clamp) == (7, 2.0)

    def test_the_same_editor_by_name_keeps_the_policy_s_settings(self, request_: Any) -> None:
        params: Any = chosen_editor(request_, "memit", None).params
        assert params.steps == 7

    def test_no_checkpoint_of_what_stands_beside_the_weights(self, write_policy: Any, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no checkpoint can hold"):
            safeedit.apply(write_policy(facts=[MUSIC]), editor="grace", save_model=True, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_another_editor_gets_none_of_them(self, request_: Any) -> None:
        assert chosen_editor(request_, "idle", None).params.model_dump() == {}

    @pytest.mark.parametrize(
        ("editor", "params"), [("grace", {}), ("wise", {}), ("memit", {"objective": "refusal"})]
    )
    def test_what_only_hides_is_no_erasure_above_g1(
        self, write_policy: Any, editor: str, params: dict[str, Any]
    ) -> None:
        def asking(grade: str) -> Any:
            return read_request(write_policy(facts=[MUSIC], extra={"assurance": grade}))

        assert chosen_editor(asking("G1"), editor, params).name == editor
        with pytest.raises(
            UsageError, match=r"assurance G2 .* use alphaedit, .*memit.*, or ask for assurance G1"
        ):
            chosen_editor(asking("G2"), editor, params)
        assert chosen_editor(asking("G2"), "memit", None).name == "memit"

    def test_what_an_editor_cannot_do_is_told_with_the_reason(self, write_policy: Any) -> None:
        policy = write_policy("insert", facts=[MUSIC])
        told = "cannot insert: it only takes weights away; it can detox, erase"
        with pytest.raises(UsageError, match=told):
            chosen_editor(read_request(policy), "prune", None)

    def test_without_any_choice_it_is_memit(self, write_policy: Any) -> None:
        assert chosen_editor(read_request(write_policy(facts=[MUSIC])), None, None).name == "memit"


class TestSuite:
    def test_a_file_that_the_policy_names_lies_beside_the_policy(
        self, write_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = write_policy(facts=[MUSIC], suite="own.yaml")
        (policy.parent / "own.yaml").write_text(SUITE)
        monkeypatch.chdir(tmp_path)
        assert suite_source(read_request(policy), None) == str((policy.parent / "own.yaml").resolve())

    def test_a_file_that_the_caller_names_lies_where_the_caller_is(
        self, write_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mine.yaml").write_text(SUITE)
        monkeypatch.chdir(tmp_path)
        request = read_request(write_policy(facts=[MUSIC]))
        assert suite_source(request, "mine.yaml") == str(tmp_path / "mine.yaml")
        assert suite_source(request, None) == "smoke"

    def test_a_run_with_a_suite_of_its_own_can_be_probed_again(
        self, given: Any, write_policy: Any, tmp_path: Path
    ) -> None:
        policy = write_policy(facts=[MUSIC], suite="own.yaml")
        (policy.parent / "own.yaml").write_text(SUITE)
        run = safeedit.apply(policy, given.pair, tmp_path / "run", editor="idle")
        assert run.verdict == "FAIL"
        assert safeedit.probe(run.path).to_json()["results"] == run.report.to_json()["results"]


class TestCorpus:
    def test_a_text_file_gives_its_lines_as_far_as_they_are_needed(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("\n".join(["one sentence of ten words or so", "", "x"] * 50))
        corpus: Any = chosen_corpus(tmp_path / "text.txt", get("memit")(statistics_tokens=20))
        assert corpus.max_tokens == 20
        assert 3 <= len(corpus.texts) < 50
        assert set(corpus.texts) <= {"one sentence of ten words or so", "x"}

    def test_none_is_the_editor_s_own(self) -> None:
        assert chosen_corpus(None, get("memit")()) is None

    @pytest.mark.parametrize(("content", "told"), [(b"\n \n", "no text"), (b"\xff\xfe\x00x", "not UTF-8")])
    def test_a_file_without_text_is_refused(self, content: bytes, told: str, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_bytes(content)
        with pytest.raises(UsageError, match=told):
            chosen_corpus(tmp_path / "text.txt", get("memit")())

    def test_a_data_set_needs_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(UsageError, match="install the `datasets` package"):
            chosen_corpus("nobody/nothing", get("memit")())

    def test_a_data_set_is_read_as_far_as_it_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import types

        read: list[int] = []

        def load_dataset(name: str, configuration: str | None, *, split: str, streaming: bool) -> Any:
            assert (name, configuration, split, streaming) == ("wiki/text", "small", "train", True)
            for number in range(10_000):
                read.append(number)
                yield {"id": str(number), "text": f"sentence number {number}"}

        monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
        corpus: Any = chosen_corpus("wiki/text:small", get("memit")(statistics_tokens=50))
        assert corpus.texts[:2] == ("sentence number 0", "sentence number 1")
        assert len(read) < 100

    def test_a_data_set_that_cannot_be_read_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import types

        def load_dataset(*_: Any, **__: Any) -> Any:
            raise FileNotFoundError("/home/somebody/private")

        monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
        with pytest.raises(UsageError, match=r"could not be read \(FileNotFoundError\)"):
            chosen_corpus("wiki", get("memit")())

    def test_a_run_takes_its_statistics_from_a_file(
        self, given: Any, write_policy: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "text.txt").write_text("The cat sat by the river.\n" * 200)
        params = {"statistics_tokens": 500, "passes": 1, "contexts": 0}
        run = safeedit.apply(
            write_policy(facts=[MUSIC]),
            given.pair,
            tmp_path / "run",
            params=params,
            statistics=tmp_path / "text.txt",
        )
        assert run.patch.meta["statistics_tokens"] < 1000


class TestPlaces:
    def test_the_default_folder_is_the_policy_s_id_and_the_time(
        self, write_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        policy = Policy.load(write_policy(facts=[MUSIC]))
        first = default_out(policy)
        assert first.parts[0] == "runs"
        assert first.name.startswith("case-1-2")
        first.mkdir(parents=True)
        assert default_out(policy) != first

    def test_the_cache_can_be_put_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SAFEEDIT_CACHE", str(tmp_path))
        assert cache_folder() == tmp_path / "statistics"
        monkeypatch.delenv("SAFEEDIT_CACHE")
        assert cache_folder().name == "statistics"
        assert "safeedit" in str(cache_folder())

    def test_a_policy_object_does_as_well_as_its_file(
        self, given: Any, write_policy: Any, tmp_path: Path
    ) -> None:
        policy = Policy.load(write_policy(facts=[MUSIC]))
        run = safeedit.apply(policy, given.pair, tmp_path / "run", editor="idle")
        kept = RunFolder.open(run.path).vault.get("request")["text"]
        assert json.loads(kept)["metadata"]["id"] == "case-1"


class TestListing:
    def test_runs_in_the_order_of_their_start(self, modified_copy: Path, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path / "later", "case-2"):
            raise KeyboardInterrupt
        (tmp_path / "spoilt").mkdir()
        (tmp_path / "spoilt" / "run.json").write_text("{")
        (tmp_path / "no-run").mkdir()
        found = {run.path.name: run for run in list_runs(tmp_path)}
        assert found.keys() == {"copy", "later", "spoilt"}
        assert (found["copy"].verdict, found["copy"].editor, found["copy"].exit_code) == ("PASS", "memit", 0)
        assert (found["later"].status, found["later"].id) == ("interrupted", "case-2")
        assert (found["spoilt"].status, found["spoilt"].id) == ("unreadable", None)
        assert [run.path.name for run in list_runs(tmp_path)][-2:] == ["copy", "later"]
        assert list_runs(modified_copy)[0].id == "case-1"
        json.dumps([run.to_json() for run in list_runs(tmp_path)])

    def test_a_run_in_progress_says_so(self, tmp_path: Path) -> None:
        with RunFolder.create(tmp_path / "now", "case-3") as folder:
            assert list_runs(tmp_path)[0].status == "running"
            folder.finish("NO_BASELINE", None, 3)
        assert list_runs(tmp_path)[0].status == "finished"

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="there is no folder"):
            list_runs(tmp_path / "nowhere")
        assert list_runs(tmp_path) == ()


def test_a_stopwatch_counts_stages_that_fail_too() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="x"), watch.timed("edit"):
        raise ValueError("x")
    assert watch.stage == "edit"
    assert watch.seconds["edit"] >= 0


def test_versions_may_stand_in_a_record() -> None:
    from safeedit.runs.plain import is_plain_text

    assert {"safeedit", "torch", "python"} <= versions().keys()
    assert all(is_plain_text(version) for version in versions().values())


def test_the_public_names_are_there_and_cost_nothing() -> None:
    code = (
        "import sys, safeedit; names = dir(safeedit); found = [getattr(safeedit, n) for n in "
        "('apply', 'plan', 'probe', 'load', 'rollback', 'verify', 'list_runs', 'Policy', 'Run')]; "
        "print('apply' in names, safeedit.__version__ != '', "
        "[m for m in ('torch', 'transformers', 'rich', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True []"
    assert set(safeedit.__all__) <= set(dir(safeedit))
    assert all(getattr(safeedit, name) is not None for name in safeedit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'aplly'"):
        _ = safeedit.aplly
