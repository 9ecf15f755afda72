"""Roles, averages, suggestions and pictures, on maps with known numbers."""

import sys
import xml.dom.minidom

import numpy as np
import pytest
from tracing import TEXTS, prompts
from words import word_tokenizer

from safeedit.editors.rows import Text
from safeedit.errors import UsageError
from safeedit.locate.figures import check_target
from safeedit.locate.maps import Map, averages, correlation, suggestions
from safeedit.locate.picture import Panel, colour, draw, png, svg
from safeedit.locate.prompts import Prompt, prompts_of
from safeedit.locate.trace import Settings


def prompt(fact, first, last, end):
    ids = tuple(range(end + 1))
    return Prompt(fact, ids, first, last, end, (9,), tuple(f"w{i}" for i in ids))


def a_map(fact, grid, first=0, last=1, kind="mlp"):
    grid = np.array(grid, dtype=float)
    return Map(prompt(fact, first, last, len(grid) - 1), 0.9, 0.1, {kind: grid})


def test_roles_are_those_of_the_paper():
    assert prompt(0, 1, 4, 8).roles == (
        None,
        "first_subject",
        "middle_subject",
        "middle_subject",
        "last_subject",
        "first_after",
        "further",
        "further",
        "last",
    )
    assert prompt(0, 0, 0, 2).roles == ("last_subject", "first_after", "last")
    assert prompt(0, 0, 1, 2).roles == ("first_subject", "last_subject", "last")
    assert prompt(0, 1, 2, 2).roles == (None, "first_subject", "last")


def test_tokens_are_found_by_characters():
    found = prompts(part="whole")
    assert [(one.first, one.last, one.end) for one in found] == [(1, 3, 5), (0, 0, 1), (3, 4, 7), (2, 3, 3)]
    assert [len(one.wanted) for one in found] == [1, 2, 1, 1]
    assert found[1].pieces == ("w33", "w8")
    assert len(found[1].ids) == 3
    first = found[1].measured("first")
    assert (len(first.ids), len(first.wanted), first.end) == (2, 1, 1)
    assert not any(word in repr(found) for word in ("w3", "w4", "[4"))


def test_an_object_without_a_token_is_refused():
    with pytest.raises(UsageError, match="token of its own"):
        prompts_of(word_tokenizer(), [Text("", TEXTS[0].template, "w30", " ")], [0])


def test_averages_are_over_prompts_and_then_over_facts():
    maps = [
        a_map(0, [[0, 0], [0.2, 0.4], [1, 1]]),
        a_map(0, [[0, 0], [0.4, 0.0], [1, 1]]),
        a_map(1, [[0, 0], [0.9, 0.2], [1, 1]]),
    ]
    found = {average.role: average for average in averages(maps, ("mlp",))}
    assert list(found) == ["first_subject", "last_subject", "last"]
    middle = found["last_subject"]
    assert middle.facts == 2
    assert middle.mean.tolist() == pytest.approx([0.6, 0.2])
    assert middle.error.tolist() == pytest.approx([0.3, 0.0])
    (alone, *_) = averages(maps[:1], ("mlp",))
    assert alone.error is None


@pytest.mark.parametrize(
    ("subject", "last", "site", "layers"),
    [
        ([0.1, 0.5, 0.9, 0.5, 0.2, 0.0], [0.0] * 6, "subject", (1, 2, 3)),
        ([0.9, 0.1, 0.8, 0.1, 0.0, 0.0], [0.0] * 6, "subject", (0,)),
        ([0.1] * 6, [0.0, 0.0, 0.0, 0.3, 0.6, 0.9], "prompt", (3, 4)),
        ([0.0, 0.0, 0.0, 0.0, 0.4, 0.9], [0.0] * 6, "subject", (4,)),
    ],
)
def test_the_layers_around_the_peak_are_suggested(subject, last, site, layers):
    found, *weaker = suggestions(averages([a_map(0, [[0] * 6, subject, last])], ("mlp",)), 6)
    assert (found.site, found.layers, found.params) == (site, layers, {"layers": list(layers)})
    assert all(one.site != site and one.effect < found.effect for one in weaker)


def test_hidden_states_are_judged_at_the_subject_alone():
    maps = [a_map(0, [[0] * 4, [0.3, 0.4, 0.1, 0], [0, 0.2, 0.8, 0.8]], kind="hidden")]
    (found,) = suggestions(averages(maps, ("hidden",)), 4)
    assert (found.site, found.layers) == ("subject", (0, 1))


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_where_nothing_stands_out_nothing_is_suggested(kind):
    maps = [a_map(0, [[0] * 4, [-0.1, 0, 0, 0.5], [0] * 4], kind=kind)]
    assert suggestions(averages(maps, (kind,)), 4) == []


def test_equal_maps_correlate_fully():
    maps = [a_map(0, [[0, 5], [1, 2], [3, 1]], first=1)]
    assert correlation(maps, maps, "mlp") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("depth", "window", "width"), [(48, None, 10), (6, None, 1), (2, None, 1), (6, 3, 3), (6, 99, 6)]
)
def test_the_window_is_relative_to_the_depth(depth, window, width):
    assert Settings(window=window).width(depth) == width


def test_a_picture_shows_every_cell_and_no_markup():
    rows = [("<first> & foremost", np.array([0.0, 0.5, -0.5])), (" w\x1b[2J", np.array([1.0, 0.0, 0.0]))]
    drawing = draw("title", "note", [Panel("MLP", rows)])
    text = svg(drawing)
    found = xml.dom.minidom.parseString(text)
    colours = [box.getAttribute("fill") for box in found.getElementsByTagName("rect")]
    assert {colour(value, 1.0) for value in (0.0, 0.5, -0.5, 1.0)} <= set(colours)
    assert len({colour(value, 1.0) for value in (0.0, 0.5, -0.5, 1.0)}) == 4
    assert "&lt;first&gt; &amp; foremost" in text
    assert "\x1b" not in text
    assert colour(0.3, 0.0) == colour(0.0, 1.0) == "#ffffff"


def test_a_png_has_the_same_layout():
    image = pytest.importorskip("PIL.Image")
    import io

    drawing = draw("title", "note", [Panel("MLP", [("row", np.array([0.0, 1.0]))])])
    opened = image.open(io.BytesIO(png(drawing)))
    dark = next(box for box in drawing.boxes if box.fill == colour(1.0, 1.0))
    middle = (2 * (dark.x + dark.width / 2), 2 * (dark.y + dark.height / 2))
    assert opened.getpixel(tuple(map(round, middle))) == (8, 48, 107)


def test_without_pillow_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"safeedit\[plot\]"):
        check_target(tmp_path / "map.png")
    check_target(tmp_path / "map.svg")


@pytest.mark.parametrize("name", ["map.jpg", "absent/map.svg", "there.svg"])
def test_a_target_that_cannot_be_written_is_refused_at_once(name, tmp_path):
    (tmp_path / "there.svg").mkdir()
    with pytest.raises(UsageError):
        check_target(tmp_path / name)
    check_target(tmp_path)
    check_target(tmp_path / "new-folder")
