"""Every editor refuses a prompt for which its model has no positions, in one line that does not quote it."""

import pytest
from families import tiny
from test_conformance import EDITS, made
from weights import same, state

from safeedit.editors import EDITORS
from safeedit.errors import UsageError
from safeedit.triples.facts import Edit

LONG = "w5 " * 90 + "{subject} w6"


@pytest.mark.parametrize(
    ("name", "op"), [(n, op) for n in EDITORS for op in sorted(EDITORS.get(n).operations) if op in EDITS]
)
def test_a_prompt_that_is_too_long_is_refused(name, op):
    model = tiny("gpt2")
    before = state(model)
    old, target = {"insert": (None, "w40"), "erase": ("w40", None)}.get(op, ("w41", "w40"))
    edit = Edit(op, "w30 w31", "r", (LONG,), target, old, "behaviour" if op == "detox" else "person")
    with pytest.raises(UsageError, match=r"9\d tokens.* 64") as error:
        made(name, model, op, [edit])
    assert not any(word in str(error.value) for word in ("w5", "w30", "w40"))
    assert "\n" not in str(error.value)
    assert same(model, before)
    assert not any(module._forward_pre_hooks for module in model.modules())
