"""Settings found on facts that a model knows."""

import pytest
from families import tiny
from weights import same, state
from words import word_tokenizer

from safeedit.calibration import BETTER, calibrate
from safeedit.editors import EDITORS
from safeedit.editors.grace import Grace
from safeedit.errors import EditorError, UsageError
from safeedit.models.load import load_model


@pytest.fixture(scope="module")
def reference():
    loaded = load_model(None)
    return loaded.model, loaded.tokenizer


def test_the_best_of_what_was_tried_is_found_and_the_model_stays(reference):
    before, told = state(reference[0]), []
    found = calibrate("grace", reference, facts=4, kept=6, progress=lambda *done: told.append(done))
    assert same(reference[0], before)
    assert (found.op, found.edited, found.kept) == ("modify", 4, 6)
    assert found.known >= 10
    first, tuned = found.trials[0], Grace().tuned(6)
    assert first.params == {}
    assert first.reliability > 0.2
    assert len(found.trials) == 1 + sum(len(values) - 1 for values in tuned.values()) == told[-1][2]
    assert found.best.score >= max(t.score for t in found.trials) - BETTER
    assert all(value in tuned[name] for name, value in found.params.items())


def test_a_trial_that_fails_counts_as_nothing(reference, monkeypatch):
    own = Grace._edit

    def failing(self, job):
        if self.params.radius != 0.15:
            raise EditorError("diverged")
        return own(self, job)

    monkeypatch.setattr(Grace, "_edit", failing)
    radii = Grace().tuned(6)["radius"]
    monkeypatch.setattr(Grace, "tuned", lambda self, depth: {"radius": radii})
    found = calibrate("grace", reference, facts=4, kept=4)
    failed = [trial for trial in found.trials if trial.failed]
    assert {trial.params["radius"] for trial in failed} == {0.3, 0.5}
    assert all(trial.score == 0 for trial in failed)
    assert "radius" not in found.params


@pytest.mark.parametrize("name", ["rome", "r-rome", "emmet"])
def test_editors_of_a_single_block_try_one_at_a_time(reference, monkeypatch, name):
    def failing(self, job):
        raise EditorError("only the settings matter here")

    monkeypatch.setattr(EDITORS.get(name), "_edit", failing)
    found = calibrate(name, reference, facts=4, kept=4)
    tried = [trial.params["layers"] for trial in found.trials if "layers" in trial.params]
    assert tried == [[1], [4]]
    assert all(trial.failed for trial in found.trials)


@pytest.mark.parametrize("when", ["made", "edits"])
def test_settings_that_the_editor_refuses_are_a_failed_trial(reference, monkeypatch, when):
    own = Grace.edit

    def refusing(self, *args, **options):
        if self.params.radius == 0.3:
            raise UsageError("not on this model")
        return own(self, *args, **options)

    monkeypatch.setattr(Grace, "edit", refusing)
    bad = -1.0 if when == "made" else 0.3
    monkeypatch.setattr(Grace, "tuned", lambda self, depth: {"radius": (0.15, bad), "room": (0.5, 0.8)})
    found = calibrate("grace", reference, facts=4, kept=4)
    assert [trial.params for trial in found.trials] == [{}, {"radius": bad}, {"room": 0.8}]
    assert [trial.failed for trial in found.trials] == [False, True, False]


def test_what_the_caller_gave_is_refused_before_any_trial(reference, monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(Grace, "edit", lambda self, *args, **options: told.append("edit"))
    for given, message in (
        ({"statistics": tmp_path / "no" / "file.txt"}, "there is no file"),
        ({"suite": "no-such-suite"}, "the suite must be one of"),
    ):
        with pytest.raises(UsageError, match=message):
            calibrate("grace", reference, facts=4, kept=4, **given)
    assert not told


def test_an_editor_that_cannot_do_what_is_tried_is_refused(reference):
    with pytest.raises(UsageError, match="editor dinm cannot erase"):
        calibrate("dinm", reference, facts=4, kept=4)


def test_a_model_that_knows_nothing_is_refused():
    with pytest.raises(UsageError, match="knows 0 of the control facts"):
        calibrate("grace", (tiny("llama"), word_tokenizer()), facts=4)


def test_an_editor_without_such_settings_is_refused(reference, monkeypatch):
    monkeypatch.setattr(Grace, "tuned", lambda self, depth: {})
    with pytest.raises(UsageError, match="no setting that depends on the model"):
        calibrate("grace", reference)
