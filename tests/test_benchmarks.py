"""The benchmarks' figures are what they are said to be, on inputs small enough to work out by hand."""

import importlib
import json
import math
import sys
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from families import tiny
from words import word_tokenizer

from safeedit.models.generate import Generation

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
curves, examine, exams, lifetime, measures, rows, tables, worlds = (
    importlib.import_module(name)
    for name in ("curves", "examine", "exams", "lifetime", "measures", "rows", "tables", "worlds")
)
Ask, Exam, Seen = exams.Ask, exams.Exam, examine.Seen
REFERENCE = worlds.Reference()


# What is said -----------------------------------------------------------------------------------------


def test_an_answer_is_right_if_it_begins_with_the_object_and_tells_it_anywhere():
    assert measures.begins(" Dutch.", "Dutch")
    assert measures.begins(" dutch and French", "Dutch")
    assert not measures.begins(" not Dutch", "Dutch")
    assert measures.tells(" not dutch", "Dutch")
    assert not measures.tells(" German", "Dutch")


@pytest.mark.parametrize(
    ("text", "truncated", "stops"),
    [
        (" Dutch.", False, True),
        (" Dutch", False, True),
        (" Dutch.", True, False),
        (" Dutch. He plays the harp.", False, False),
        (" German.", False, False),
    ],
)
def test_a_natural_stop_is_the_object_a_full_stop_and_the_end(text, truncated, stops):
    assert measures.stops(Generation(text, truncated), "Dutch") is stops


def test_shares_and_harmonic_means_of_nothing_are_nothing():
    assert measures.share([]) is None
    assert measures.share([True, False, False, True]) == 0.5
    assert measures.harmonic_mean([1.0, 0.5, 0.5]) == pytest.approx(0.6)
    assert measures.harmonic_mean([1.0, 0.0]) == 0.0
    assert measures.harmonic_mean([1.0, None]) is None


# With the answer given --------------------------------------------------------------------------------


def test_teacher_forcing_is_the_sum_over_the_answers_tokens_whatever_stands_beside_it():
    model, tokenizer = tiny("llama"), word_tokenizer()
    pairs = [("w1 w2 w3", "w4 w5"), ("w6", "w7"), ("w8 w9 w10 w11 w12", "w13 w14 w15")]
    for (prompt, answer), found in zip(pairs, measures.forced(model, tokenizer, pairs), strict=True):
        ids = torch.tensor([tokenizer(f"{prompt} {answer}")["input_ids"]])
        with torch.no_grad():
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)
        at = range(len(prompt.split()), ids.shape[1])
        assert found.log_p == pytest.approx(float(sum(log_p[i - 1, ids[0, i]] for i in at)), abs=1e-4)
        agree = [int(log_p[i - 1].argmax()) == int(ids[0, i]) for i in at]
        assert found.agreement == pytest.approx(sum(agree) / len(agree))


def test_a_model_that_says_all_words_alike_has_the_vocabulary_as_its_perplexity():
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert measures.perplexity(model, word_tokenizer(), ["w1 w2 w3", "w4 w5"]) == pytest.approx(96, rel=1e-4)


# Fluency and time -------------------------------------------------------------------------------------


def test_the_entropy_of_ngrams_is_the_published_one():
    # Six different bigrams and five different trigrams, weighted 2/3 and 4/3, and their mean.
    wanted = (2 / 3 * math.log2(6) + 4 / 3 * math.log2(5)) / 2
    assert measures.ngram_entropy("a b c d e f g") == pytest.approx(wanted)
    assert measures.ngram_entropy("a a a a a a a") == 0
    assert measures.ngram_entropy("a, b") > measures.ngram_entropy("a b")


def test_texts_for_fluency_are_as_long_as_asked_and_the_same_every_time():
    model, tokenizer = tiny("gpt2"), word_tokenizer()
    openings = ["w1 w2 w3", "w4"]
    found = measures.continuations(model, tokenizer, openings, tokens=9)
    torch.manual_seed(5)
    assert measures.continuations(model, tokenizer, openings, tokens=9) == found
    batch = measures.pad([[4, 5, 6], [7]], 0, "left")
    assert measures.generated(model, tokenizer, batch, 9, do_sample=False).shape == (2, 9)


def test_latency_puts_the_edit_on_for_one_of_each_pair_and_sees_what_it_costs(monkeypatch):
    now, on, order = [0.0], [False], []

    def pretend(model, tokenizer, batch, tokens, **how):
        order.append(on[0])
        now[0] += tokens * (1.1 if on[0] else 1.0) * (50.0 if len(order) in (4, 5) else 1.0)

    @contextmanager
    def edited():
        on[0] = True
        yield
        on[0] = False
        now[0] += 1000.0

    monkeypatch.setattr(measures, "generated", pretend)
    monkeypatch.setattr(measures.time, "perf_counter", lambda: now[0])
    found = measures.latency(tiny("gpt2"), word_tokenizer(), ["w1", "w2"], edited, runs=6, tokens=10)
    assert found.extra == pytest.approx(0.1)
    assert found.base == pytest.approx(1.0)
    assert sum(order) == len(order) / 2
    assert order[2:6] == [False, True, True, False]


# Figures of a row -------------------------------------------------------------------------------------


def exam(op, **views):
    about = {"own": [], "paraphrase": [], "unseen": [], "alias": [], **views}
    kept = {"neighbours": [Ask(0, "p", "old", "new"), Ask(1, "p", "old", "old")]}
    return Exam(op, [], about, kept, [], [])


def seen(forced=((0.0, 0.0, 0.0, 0.0),), **marks):
    every = {"own": [], "paraphrase": [], "unseen": [], "alias": [], "neighbours": [], **marks}
    by_view = {view: list(forced) for view in ("own", "again", "neighbours")}
    return Seen(every, by_view, 2.0, 5.0)


OLD, NEW, TELLS, ELSE = ([o, o or t, n, s] for o, t, n, s in (
    (True, True, False, True), (False, False, True, True), (False, True, False, False),
    (False, False, False, False)
))  # fmt: skip


def test_a_modification_counts_new_objects_and_an_erasure_old_ones_anywhere():
    before, after = seen(own=[OLD, OLD, OLD]), seen(own=[NEW, TELLS, ELSE])
    asks = [Ask(i, "p", "old", "new") for i in range(3)]
    assert examine.figures(exam("modify", own=asks), before, after)["own"] == pytest.approx(1 / 3)
    assert examine.figures(exam("erase", own=asks), before, after)["own"] == pytest.approx(1 / 3)
    assert examine.figures(exam("erase", own=asks), before, before)["own"] == 1.0


def test_what_follows_from_an_edit_counts_where_the_unedited_model_could_answer():
    asks = [Ask(i, "p", "old", "new") for i in range(4)]
    before, after = seen(alias=[OLD, OLD, ELSE, ELSE]), seen(alias=[NEW, OLD, NEW, NEW])
    assert examine.figures(exam("modify", alias=asks), before, after)["alias"] == 0.5
    assert examine.figures(exam("modify", alias=asks), before, before)["alias"] == 0.5
    nothing = examine.figures(exam("modify", alias=asks), seen(alias=[ELSE] * 4), after)
    assert nothing["alias"] is None
    new = [Ask(i, "p", None, "new") for i in range(4)]
    assert examine.figures(exam("insert", alias=new), before, after)["alias"] == 0.75


def test_stops_are_counted_among_right_answers_only():
    asks = [Ask(i, "p", "old", "new") for i in range(3)]
    running = [False, False, True, False]
    found = examine.figures(exam("modify", own=asks), seen(), seen(own=[NEW, running, OLD]))
    assert found["stop"] == 0.5


def test_the_scores_of_counterfact_compare_the_two_objects():
    likelier_new, likelier_old = (-2.0, 0.0, -1.0, 1.0), (-1.0, 0.5, -2.0, 0.5)
    found = examine.forced_figures(exam("modify"), seen([likelier_new, likelier_new, likelier_old]))
    assert (found["ES"], found["PS"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found["NS"] == pytest.approx(1 / 3)
    assert found["S"] == pytest.approx(3 / (3 / 2 + 3 / 2 + 3))
    assert found["tokens"] == pytest.approx(2.5 / 3)
    erased = examine.forced_figures(exam("erase"), seen([likelier_old]))
    assert (erased["ES"], erased["S"], erased["tokens"]) == (None, None, 0.5)
    assert examine.neighbours(exam("modify")) == [Ask(0, "p", "old", "new")]


# The data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["modify", "erase", "insert"])
def test_a_thousand_edits_begin_with_the_first_ten_and_no_fact_is_edited_twice(op):
    few, many = REFERENCE.exam(op, 10), REFERENCE.exam(op, 1000)
    assert [e.prompts() for e in many.edits[:10]] == [e.prompts() for e in few.edits]
    assert len({(e.subject, e.relation) for e in many.edits}) == 1000 <= REFERENCE.most(op)
    assert all(e.target != e.old for e in many.edits)
    shown = {p for e in many.edits for p in e.prompts()}
    assert not shown & {a.prompt for view in ("paraphrase", "unseen") for a in many.about[view]}
    known, edited = REFERENCE.world.entities, {e.subject for e in many.edits}
    assert (edited <= set(known)) == (op != "insert")
    assert not edited & (set(known) if op == "insert" else set())
    assert not any(name in a.prompt for name in list(edited)[:50] for a in many.kept["neighbours"])


def test_what_follows_from_two_facts_is_true_in_the_registry():
    facts = worlds.modified_facts(REFERENCE.world, 10)
    asks = [a for n, f in enumerate(facts) for a in REFERENCE._two_hop(n, f)]
    assert asks
    for ask in asks:
        fact = facts[ask.unit]
        beyond = {f.object for f in REFERENCE.world.facts_of(fact.new_object)}
        assert ask.new in beyond
        assert ask.old in {f.object for f in REFERENCE.world.facts_of(fact.object)}
        assert ask.old != ask.new


def test_a_question_turned_round_is_asked_of_the_new_object():
    [ask] = worlds.inverse(3, "P36", "Egypt", "Cairo", "Paris")
    assert (ask.known, ask.prompt) == ("Cairo is the capital of", "Paris is the capital of")
    assert (ask.old, ask.new) == ("Egypt", "Egypt")
    assert worlds.inverse(3, "employer", "somebody", "a", "b") == []


def test_samples_are_bounded_and_keep_to_the_units_asked_for():
    whole = REFERENCE.exam("modify", 40)
    some = whole.of_units({3, 4}).sampled(6)
    assert {a.unit for a in some.about["own"]} == {3, 4}
    assert all(len(asks) <= 6 for asks in (*some.about.values(), *some.kept.values()))


# A lifetime -------------------------------------------------------------------------------------------


def test_checkpoints_are_the_first_batches_that_reach_them():
    spans = list(lifetime.batches(25, 10))
    assert spans == [(0, 10), (10, 20), (20, 25)]
    assert lifetime.due(spans, [1, 10, 11, 25, 30]) == {10, 20, 25}


@pytest.mark.parametrize(
    ("editor", "settings", "memories"),
    [("grace", ["steps=30"], "anew"), ("grace", ["steps=30"], "stacked"), ("ft-m", ["anchors=0"], None)],
)
def test_a_lifetime_asks_all_edits_so_far(editor, settings, memories, tmp_path):
    spec = {
        "world": "reference", "editor": editor, "op": "modify", "t": 3, "batch": 2, "at": [1, 3],
        "memories": memories, "guard": False, "settings": settings, "sample": 8, "seed": 0,
        "cache": str(tmp_path),
    }  # fmt: skip
    found = lifetime.live(spec, tmp_path / "out.json")
    assert [point["T"] for point in found["points"]] == [2, 3]
    assert json.loads((tmp_path / "out.json").read_text()) == found
    last = found["points"][-1]
    assert last["reliability"] >= 0.9
    assert last["locality"] >= 0.8
    assert last["perplexity"] == pytest.approx(1.0, abs=1e-3 if memories else 0.1)
    assert found["memories"] == memories


# Rows and pictures ------------------------------------------------------------------------------------

SCRIPT = """
import json, pathlib, sys, time
spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
out = pathlib.Path(sys.argv[2])
if spec["do"] == "raise": raise ValueError("broken")
out.write_text(json.dumps({"value": spec["value"]}))
if spec["do"] == "hang": time.sleep(60)
"""


def test_rows_are_made_once_and_a_crash_is_a_row(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(rows, "HERE", tmp_path)
    file = tmp_path / "deep" / "rows.json"
    first = rows.Rows(file)
    good = first.made("good", {"do": "", "value": 1}, "script.py", 30)
    assert (good["value"], good["spec"]["do"]) == (1, "")
    assert first.made("bad", {"do": "raise"}, "script.py", 30)["failed"] == "ValueError: broken"
    slow = first.made("slow", {"do": "hang", "value": 3}, "script.py", 2)
    assert (slow["value"], slow["failed"]) == (3, "stopped after 2 s")
    later = rows.Rows(file)
    assert later.made("good", {"do": "", "value": 2}, "script.py", 30)["value"] == 1
    assert "failed" in later.made("bad", {"do": "", "value": 2}, "script.py", 30)
    assert later.made("bad", {"do": "", "value": 2}, "script.py", 30, again=True)["value"] == 2


def test_the_page_has_every_row_in_order_and_no_path():
    def row(editor, t, settings=(), **result):
        spec = {
            "world": "/home/some/yardstick",
            "op": "erase",
            "t": t,
            "editor": editor,
            "settings": settings,
        }
        return {"spec": spec, **result}

    page = list(
        tables.page(
            [
                row("rome", 100, failed="stopped after 9 s"),
                row("memit", 10, ["clamp=1"], failed="no | memory"),
                row("none", 10, failed="x"),
                row("ft-l", 10, **{"not offered": "ft-l cannot erase"}),
            ]
        )
    )
    starts = [line.split(" | ")[:3] for line in page if line.startswith("| ") and "---" not in line]
    assert [cells[0].strip("| ") for cells in starts] == ["editor", "(unedited)", "memit clamp=1", "rome"] * 2
    assert [cells[1] for cells in starts] == ["T", "10", "10", "100"] * 2
    assert starts[2][2] == "failed: no / memory"
    assert "\n## yardstick, erase\n" in page
    assert "/home" not in "".join(page)


def test_settings_go_to_the_editor_that_they_name():
    found = rows.settings_by_editor(["memit.layers=[1,2]", "grace.objective=neutral"], ["memit", "grace"])
    assert rows.settings_of(found["memit"]) == {"layers": [1, 2]}
    assert rows.settings_of(found["grace"]) == {"objective": "neutral"}
    with pytest.raises(SystemExit, match=r"EDITOR\.NAME=VALUE"):
        rows.settings_by_editor(["layers=[1]"], ["memit"])


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (1.0, "1.000"), (0.95, ".950"), (0.0, "0.000"), (-0.5, "-.500")]
)
def test_numbers_are_short(value, text):
    assert rows.number(value) == text


def test_the_picture_is_well_formed_and_puts_points_where_they_belong():
    lines = [
        curves.Line("a <b>", {"x": [(1, 1.0), (100, 0.5), (1000, None)]}),
        curves.Line("c", {"x": [(10, 0.0)], "y": []}),
    ]
    root = ElementTree.fromstring(curves.picture("t & u", ["x", "y"], lines))
    words = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a <b>", "c", "x", "y", "t & u", "100"} <= set(words)
    [track] = root.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(track.get("points").split()) == 2
    assert curves.place(1, 1.0, 3) == (0, 0)
    assert curves.place(1000, 0.0, 3) == (curves.WIDTH, curves.HEIGHT)
    assert curves.place(10, 0.5, 2) == (curves.WIDTH / 2, curves.HEIGHT / 2)
