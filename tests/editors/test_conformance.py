"""What every registered editor owes its callers, on four decoder shapes."""

import pytest
import torch
from families import tiny
from weights import predicted, same, state, untouched
from words import word_tokenizer

from safeedit.behaviours import Behaviour
from safeedit.deltas import DenseDelta, LowRankDelta
from safeedit.editors import EDITORS
from safeedit.editors.memit import Memit
from safeedit.editors.statistics import Corpus
from safeedit.errors import EditorError, ModelError, SafeEditError, UsageError
from safeedit.patch import Patch
from safeedit.triples.facts import Edit

SHAPES = ("gpt2", "gpt_neox", "llama", "gemma2")
CORPUS = Corpus([f"w{i % 60} w{(7 * i) % 60} w{(11 * i) % 60} w{(3 * i) % 60}" for i in range(200)], width=32)
PROMPTS = ("w5 {subject} w6 w7", "{subject} w8", "w9 {subject} w6")
EDITS = {
    "insert": [Edit("insert", f"w{i} w{i + 1}", "r", PROMPTS, f"w{i + 20}", None) for i in (30, 33)],
    "modify": [Edit("modify", f"w{i} w{i + 1}", "r", PROMPTS, f"w{i + 20}", "w4") for i in (30, 33)],
    "erase": [Edit("erase", f"w{i} w{i + 1}", "r", PROMPTS, None, f"w{i + 20}") for i in (30, 33)],
    "detox": [
        Behaviour(f"w5 w{i} w{i + 1} w6 w7", f"w{i + 10} w{i + 11}", f"w{i + 20} w{i + 21}").edit()
        for i in (30, 33)
    ],
}
QUICK: dict[str, dict[str, object]] = {
    "memit": {"passes": 2, "steps": 3, "anchors": 1, "leak": 0.0},
    "pmet": {"passes": 2, "steps": 3, "anchors": 1, "leak": 0.0},
    "ultraedit": {"turns": 2, "leak": 0.0},
    "alphaedit": {"passes": 2, "steps": 3, "anchors": 1, "leak": 0.0},
    "rome": {"passes": 1, "steps": 3, "anchors": 0, "leak": 0.0},
    "r-rome": {"passes": 1, "steps": 3, "anchors": 0, "leak": 0.0},
    "emmet": {"passes": 2, "steps": 3, "anchors": 1, "leak": 0.0},
    "prune": {
        "steps": 20,
        "rate": 1.0,
        "anchor_weight": 0.0,
        "text_weight": 0.0,
        "random_masks": 1,
        "leak": 0.0,
    },
    "grace": {"leak": 0.0},
    "ft-l": {"epochs": 2},
    "ft-m": {"epochs": 2, "leak": 0.0, "text_tokens": 200},
    "wise": {"steps": 10, "leak": 0.0, "site": "prompt", "contexts": 2, "text_tokens": 200},
    "lora": {"epochs": 2, "leak": 0.0, "text_tokens": 200},
    "dinm": {"steps": 2, "text_tokens": 200},
    "npo": {"epochs": 2, "leak": 1e-9, "drop": 50.0, "text_tokens": 200},
}
"""Settings with which an editor is done in a moment; its promises hold for any. Untrained models know
nothing, so an erasure must not be content with that."""

both = pytest.mark.parametrize(
    ("name", "op"), [(n, op) for n in EDITORS for op in sorted(EDITORS.get(n).operations) if op in EDITS]
)
shapes = pytest.mark.parametrize("family", SHAPES)


def made(name, model, op, edits=None, **params):
    editor = EDITORS.get(name)(**{**QUICK.get(name, {}), **params})
    return editor.edit(model, word_tokenizer(), EDITS[op] if edits is None else edits, corpus=CORPUS)


@torch.no_grad()
def logits(model):
    facts, behaviours = [[34, 35, 12], [37, 38, 12]], [[9, 34, 35, 10, 11], [9, 37, 38, 10, 11]]
    asked = (torch.tensor(rows, device=model.device) for rows in (facts, behaviours))
    return torch.cat([model(input_ids=rows).logits.flatten() for rows in asked])


@both
@shapes
def test_an_edit_is_a_patch_and_nothing_else(name, op, family):
    model = tiny(family)
    before, base = state(model), logits(model)
    patch = made(name, model, op)
    assert same(model, before)
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
    assert patch.deltas or patch.memories
    assert all(isinstance(delta, DenseDelta | LowRankDelta) for delta in patch.deltas.values())
    with patch.applied(model):
        assert not torch.equal(logits(model), base)
        now = model.state_dict()
        tied = {now[changed].data_ptr() for changed in patch.deltas}
        changed = {n for n in before if not torch.equal(now[n], before[n])}
        assert changed or not patch.deltas
        assert all(n in patch.deltas or now[n].data_ptr() in tied for n in changed)
    assert same(model, before)


@both
def test_same_seed_same_patch_and_it_survives_a_file(name, op, tmp_path):
    model = tiny("llama")
    patch = made(name, model, op)
    assert made(name, tiny("llama"), op).digest == patch.digest
    loaded = Patch.load(patch.save(tmp_path / "patch"))
    assert loaded.digest == patch.digest
    with patch.applied(model):
        ours = logits(model)
    with loaded.applied(model):
        assert torch.equal(logits(model), ours)


@both
def test_planning_changes_nothing(name, op):
    model = tiny("llama")
    before = state(model)
    editor = EDITORS.get(name)(**QUICK.get(name, {}))
    layers = editor.layers_for(model, word_tokenizer(), EDITS[op])
    assert same(model, before)
    assert all(0 <= layer < 4 for layer in layers)


@both
@pytest.mark.parametrize(
    "where", ["model.layers.3.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"]
)
def test_weights_that_are_not_finite_are_refused_and_left(name, op, where):
    model = tiny("llama")
    weight = model.get_parameter(where)
    with torch.no_grad():
        weight.view(-1)[70 % weight.numel()] = torch.nan
    before = {n: torch.nan_to_num(t, nan=7.0) for n, t in state(model).items()}
    with pytest.raises((EditorError, ModelError)):
        made(name, model, op)
    assert all(torch.equal(torch.nan_to_num(t, nan=7.0), before[n]) for n, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@both
def test_an_edit_that_is_interrupted_at_any_stage_leaves_the_model(name, op):
    model = tiny("gpt2")
    before = state(model)
    editor = EDITORS.get(name)(**QUICK.get(name, {}))

    def edit(progress):
        return editor.edit(model, word_tokenizer(), EDITS[op], corpus=CORPUS, progress=progress)

    told = []
    edit(lambda stage, done, total: told.append(stage))
    for stop in dict.fromkeys(told):
        # The last report of a stage comes when most of it has happened.
        left = told.count(stop)

        def interrupt(stage, done, total, stop=stop):
            nonlocal left
            left -= stage == stop
            if stage == stop and not left:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            edit(interrupt)
        assert untouched(model, before)


@both
def test_half_precision_models_are_edited_and_come_back(name, op):
    model = tiny("llama").to(torch.bfloat16)
    before, base = state(model), logits(model)
    patch = made(name, model, op)
    assert untouched(model, before)
    with patch.applied(model):
        assert not torch.equal(logits(model), base)
        assert all(tensor.dtype == torch.bfloat16 for tensor in model.state_dict().values())
    assert untouched(model, before)


SUBJECT = "w30 w31"
NONSENSE = [
    ([Edit("erase", SUBJECT, "r", (), None, "w40")], "no prompt"),
    ([Edit("erase", SUBJECT, "r", ("w5 w6",), None, "w40")], "must contain"),
    ([Edit("erase", SUBJECT, "r", PROMPTS, None, None)], "object that shall no longer"),
    ([Edit("detox", SUBJECT, "r", PROMPTS, None, "w40")], "a safe answer"),
    ([Edit("modify", SUBJECT, "r", PROMPTS, None, "w40")], "object that shall be said"),
    ([Edit("insert", SUBJECT, "r", PROMPTS, None, None)], "object that shall be said"),
    (
        [
            Edit("insert", SUBJECT, "r", PROMPTS, "w40", None),
            Edit("insert", SUBJECT, "r", PROMPTS, "w41", None),
        ],
        "different answers to one prompt",
    ),
]


@pytest.mark.parametrize(
    ("name", "edits", "message"),
    [(n, e, m) for n in EDITORS for e, m in NONSENSE if e[0].op in EDITORS.get(n).operations],
)
def test_edits_that_make_no_sense_are_refused(name, edits, message):
    with pytest.raises(UsageError, match=message):
        made(name, tiny("gpt2"), edits[0].op, edits)


@pytest.mark.parametrize("name", EDITORS.names())
def test_what_makes_no_sense_is_a_usage_error(name):
    editor = EDITORS.get(name)
    with pytest.raises(UsageError, match="no such setting"):
        editor(no_such_setting=1)
    with pytest.raises(UsageError, match="nothing to edit"):
        made(name, tiny("gpt2"), "insert", [])
    for op in sorted(set(EDITS) - editor.operations):
        with pytest.raises(UsageError, match=f"cannot {op}"):
            made(name, tiny("gpt2"), op)
    op = next(iter(editor.operations))
    bare = [Edit(op, "w30 w31", "r", (), "w40", "w41")]
    with pytest.raises(SafeEditError, match="prompt"):
        made(name, tiny("gpt2"), op, bare)


@both
def test_no_name_or_object_is_in_what_is_kept_beside_the_weights(name, op, tmp_path):
    folder = made(name, tiny("llama"), op).save(tmp_path / "patch")
    header = (folder / "patch.json").read_text()
    assert not any(f'w{i}"' in header or f"w{i} " in header for i in (30, 31, 33, 34, 50, 53))


@both
def test_prompts_of_the_callers_own_change_less(name, op):
    model = tiny("llama")
    controls = ["w5 w30 w40 w6 w7", "w5 w33 w41 w6 w7", "w30 w31 w3 w4"]
    before = [predicted(model, prompt) for prompt in controls]
    params = {"prune": {"anchor_weight": 10.0, "steps": 20}, "dinm": {"steps": 20}}.get(name, {})

    def change(**options):
        editor = EDITORS.get(name)(**{**QUICK.get(name, {}), **params})
        patch = editor.edit(model, word_tokenizer(), EDITS[op], corpus=CORPUS, **options)
        with patch.applied(model):
            now = [predicted(model, prompt) for prompt in controls]
        return sum(float((b * (b.log() - n.log())).sum()) for b, n in zip(before, now, strict=True))

    free, held = change(), change(controls=controls)
    # Memories pass what is not routed bit for bit; whether controls bound them is in their own tests.
    assert held == 0 if EDITORS.get(name).beside_weights else held < free


@pytest.mark.parametrize("name", [n for n in EDITORS.names() if EDITORS.get(n).Params.published])
def test_presets_are_settings_that_there_are_and_no_more_than_was_published(name):
    editor = EDITORS.get(name)
    for preset, values in editor.Params.published.items():
        params = editor(preset=preset).params
        assert set(values) <= set(type(params).model_fields)
        assert type(params).model_validate(params.model_dump()) == params, "values that may be given, too"
        # No publication takes an object out beyond its first token, or asks for an answer's own ending.
        assert not getattr(params, "whole", False)
        assert not getattr(params, "end", False)
        if "whole" in type(params).model_fields:
            assert editor(preset=preset, whole=True).params.whole


@pytest.mark.parametrize("name", EDITORS.names())
def test_what_is_worth_trying_may_be_given(name):
    kind, refused = EDITORS.get(name), dict[int, str]()
    for depth in range(1, 49):
        try:
            tuned = kind().tuned(depth)
        except UsageError as error:
            refused[depth] = str(error)
            continue
        for setting, value in ((setting, value) for setting, values in tuned.items() for value in values):
            assert getattr(kind(**{setting: value}).params, setting) == value
            if setting in ("layers", "layer") and value is not None:
                blocks = value if isinstance(value, list) else [value]
                assert blocks == sorted(set(blocks))
                assert 0 <= blocks[0] <= blocks[-1] < depth
                # A closed-form edit's values act through the blocks above it.
                assert blocks[-1] < depth - 1 or not issubclass(kind, Memit)
    # Models that are too small for the editor, which is said before anything is tried.
    assert set(refused) <= {1, 2}
    assert all("above an edit" in told or "has blocks 0 to 0" in told for told in refused.values())


def test_an_erasure_as_published_ends_at_the_first_token_that_tells():
    two = [Edit("erase", "w30 w31", "r", PROMPTS, None, "w40 w41")]
    first, given, whole = (
        made("ft-m", tiny("llama"), "erase", two, preset="paper", **given).digest
        for given in ({}, {"whole": False}, {"whole": True})
    )
    assert first == given != whole
