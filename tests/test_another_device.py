"""The library on a device that is not the processor's: `apart`, which refuses to mix tensors as a GPU does.

Each test has a process of its own, since a device cannot be unmade. More of the suite runs there,
or on a GPU, with `SAFEEDIT_TEST_DEVICE` (see CONTRIBUTING).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from devices import compiler

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(compiler() is None, reason="needs Linux and a C++20 compiler")


def there(*arguments):
    """What Python prints there, given these arguments."""
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "SAFEEDIT_TEST_DEVICE": "apart", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=HERE.parent
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


DIFFERENCES = """
import devices, torch

def refused(work):
    try:
        work()
    except RuntimeError as error:
        return "device" in str(error) or "generator" in str(error)
    return False

there, here = torch.arange(6.0, device="apart").view(2, 3), torch.arange(6.0).view(2, 3)
assert there.device.type == "apart" and (there + 1).device.type == "apart"
assert refused(lambda: there + here)
assert refused(lambda: there @ here.T)
assert refused(lambda: torch.cat([there, here]))
assert refused(lambda: there[0].index_copy_(0, torch.tensor([1]), torch.ones(1)))
assert refused(lambda: torch.randperm(5, generator=torch.Generator(), device="apart"))
assert torch.equal((there * torch.tensor(2.0)).cpu(), here * 2)
assert torch.equal(there[torch.tensor([1, 0])].cpu(), here[[1, 0]])

weight = torch.nn.Linear(3, 3).to("apart")
weight(there).sum().backward()
assert torch.equal(weight.weight.grad.cpu(), here.sum(0).expand(3, 3))
row = there[1]
row.zero_()
assert there.tolist() == [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
grown = torch.empty(0, device="apart")
torch.mul(there, 2, out=grown)
assert grown.tolist() == [[0.0, 2.0, 4.0], [0.0, 0.0, 0.0]]
numbers = [torch.rand(4, generator=torch.Generator("apart").manual_seed(3), device="apart") for _ in range(2)]
assert torch.equal(*numbers)
print("apart")
"""


def test_the_device_computes_and_refuses_as_a_gpu_would():
    assert there("-c", DIFFERENCES).endswith("apart\n")


def test_every_editor_makes_its_patches_there():
    # One operation of each; all of them, with SAFEEDIT_TEST_DEVICE=apart (CONTRIBUTING.md).
    chosen = "test_an_edit_is_a_patch_and_nothing_else and llama and (modify or detox)"
    said = there(
        "-m",
        "pytest",
        "tests/editors/test_conformance.py",
        "-k",
        chosen,
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
    )
    assert "PASSED" in said
    assert "SKIPPED" not in said


POLICY = """
apiVersion: safeedit/v1
metadata: {id: elsewhere, regime: gdpr-17, received: 2026-11-02}
operations:
  - op: erase
    facts: [{subject: Mira Tolland, relation: birthplace, object: Dellwood}]
probes: {suite: smoke}
"""
RUN = """
import sys
import devices, torch
from safeedit.models import load
from safeedit_cli.main import main

load._device = lambda name: torch.device("apart")
sys.argv[1:] = ["erase", "--editor", "ft-m", "--policy", sys.argv[1], "--out", sys.argv[2], "--json"]
main()
"""


def test_a_fact_is_erased_and_probed_there(tmp_path):
    policy, out = tmp_path / "policy.yaml", tmp_path / "run"
    policy.write_text(POLICY)
    assert json.loads(there("-c", RUN, str(policy), str(out)))["verdict"] == "PASS"
    assert json.loads((out / "run.json").read_text())["device"].startswith("apart")


LAYERS = """
import devices, torch
from test_conformance import CORPUS, EDITS
from transformers import AutoConfig, AutoModelForCausalLM
from words import word_tokenizer
from families import FAMILIES
from safeedit.editors import EDITORS, preserving

preserving.READY = 0
WIDE = 512
shape = {**FAMILIES["llama"], "intermediate_size": WIDE, "num_hidden_layers": 6}
config = AutoConfig.for_model("llama", **shape)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().to("apart")
counts = torch.ops.apart

def most(name, layers):
    peaks = {}
    def told(stage, done, total):
        peaks[stage] = max(peaks.get(stage, 0), counts.peak())
        counts.restart()
    editor = EDITORS.get(name)(passes=2, steps=2, anchors=2, leak=0.0, layers=layers)
    stay = ["w5 w30 w40"]
    editor.edit(model, word_tokenizer(), EDITS["modify"], corpus=CORPUS, progress=told, controls=stay)
    return (peaks["weights"] - weights) / (4 * WIDE * WIDE)

weights = counts.held()
for name, bound in (("memit", 4), ("alphaedit", 8.5)):
    one, four = most(name, [1]), most(name, [1, 2, 3, 4])
    assert 2 < one <= four < min(one + 1, bound), (name, one, four)
print("little")
"""


def test_more_layers_take_no_more_of_the_device_when_values_are_put_in():
    assert there("-c", "import sys; sys.path.insert(0, 'tests/editors')\n" + LAYERS).endswith("little\n")
