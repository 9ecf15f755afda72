"""What a suite costs on one request, probe by probe, and how much of that is passes of the model.

    python benchmarks/profile_suite.py --suite standard --patch DIR

Processor seconds of one thread, for other work on the machine moves them least: of the base model and of
the edited one together, and what of them was spent in the model (its forward passes; where a probe
trains, the passes back too). `generation` are the greedy texts of all probes together. The patch is made
once and kept in the folder of `--patch`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rows import table

from safeedit.patch import Patch
from safeedit.policy.edits import edits_for
from safeedit.policy.requested import requested_facts
from safeedit.policy.resolve import resolve_subjects
from safeedit.probes import runner
from safeedit.probes.suite import load_suite
from safeedit.runs.measuring import pack_for
from safeedit.runs.options import cache_folder, chosen_editor, get_model, read_request

ROOT = Path(__file__).resolve().parent.parent
HEAD = ("what", "plan", "observe", "judge", "in the model", "share")
STAGES = ("plan", "observe", "judge")


@dataclass
class Clock:
    """Processor seconds by name and stage, and those of them that passed inside the model."""

    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    inside: dict[str, float] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _depth: int = 0

    @contextmanager
    def timed(self, name: str, stage: str) -> Iterator[None]:
        """Count what happens here for `name`; what is nested in it counts for itself alone."""
        self._names.append(name)
        start = time.process_time()
        try:
            yield
        finally:
            spent = time.process_time() - start
            self._names.pop()
            self.seconds[name, stage] = self.seconds.get((name, stage), 0.0) + spent
            if self._names:
                outer = (self._names[-1], stage)
                self.seconds[outer] = self.seconds.get(outer, 0.0) - spent

    def counted(self, name: str, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its seconds counted for `name`."""

        def timed(*args: Any) -> Any:
            with self.timed(name, stage):
                return call(*args)

        return timed

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its seconds counted as those of the model, unless the model is what called it."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._depth or not self._names:
                return call(*args, **kwargs)
            self._depth += 1
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self._depth -= 1
                name = self._names[-1]
                self.inside[name] = self.inside.get(name, 0.0) + time.process_time() - start

        return counted

    def rows(self) -> list[list[str]]:
        """One for everything that was timed, the dearest first, and one for their sum."""
        names = {name for name, _ in self.seconds}
        spent = {name: [self.seconds.get((name, stage), 0.0) for stage in STAGES] for name in names}
        parts = [(name, spent[name], self.inside.get(name, 0.0)) for name in names]
        parts.sort(key=lambda part: -sum(part[1]))
        sums = [sum(column) for column in zip(*spent.values(), strict=True)]
        parts.append(("all", sums, sum(self.inside.values())))
        return [
            [name, *(f"{s:.1f}" for s in own), f"{inside:.1f}", f"{inside / max(1e-9, sum(own)):.0%}"]
            for name, own, inside in parts
        ]


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Passes of modules, forwards and back, counted while it lasts."""
    module, gradients = torch.nn.Module.__call__, torch.autograd.grad
    torch.nn.Module.__call__ = clock.around(module)
    torch.autograd.grad = clock.around(gradients)
    try:
        yield
    finally:
        torch.nn.Module.__call__ = module
        torch.autograd.grad = gradients


def timed_probe(probe: Any, clock: Clock) -> None:
    """Have a probe's own methods counted under its name."""
    methods = {"plan": "plan", "observe": "observe", "said": "observe", "figures": "judge"}
    for method, stage in methods.items():
        setattr(probe, method, clock.counted(probe.id, stage, getattr(probe, method)))


def main() -> None:
    """Run a suite on a request and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default=str(ROOT / "policies" / "gdpr_request.yaml"))
    parser.add_argument("--model", help="a folder or an id; the reference model by default")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--patch", type=Path, required=True, help="the folder where the patch is kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--verdicts", action="store_true", help="print each probe's verdict and figures too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    request, suite = read_request(arguments.policy), load_suite(arguments.suite)
    loaded = get_model(arguments.model, "cpu", "auto")
    model, tokenizer = loaded.model, loaded.tokenizer
    resolved = resolve_subjects(request.subjects, model, tokenizer, request.catalogue, seed=0)
    facts = requested_facts(request.facts, resolved)
    clock = Clock()
    for entry in suite.entries:
        timed_probe(entry.probe, clock)
    with watched(clock):
        with clock.timed("rest", "plan"):
            pack = pack_for(request, suite, facts, loaded, 0)
            pack.material()
        runner._generate = clock.counted("generation", "observe", runner._generate)
        with clock.timed("rest", "observe"):
            before = runner.measure(pack, model, tokenizer)
        if not (arguments.patch / "patch.json").exists():
            wanted = [fact for index, fact in enumerate(facts) if before.known[index]]
            editor = chosen_editor(request, None, None)
            edits = edits_for(wanted, request.catalogue)
            editor.edit(model, tokenizer, edits, cache=cache_folder(), seed=0).save(arguments.patch)
        with Patch.load(arguments.patch).applied(model), clock.timed("rest", "observe"):
            after = runner.measure(pack, model, tokenizer, base=before)
        with clock.timed("rest", "judge"):
            report = runner.judge(pack, before, after)
    print("\n".join(table(HEAD, clock.rows())))
    print(f"\n{report.verdict}, {report.grade}, {sum(map(len, pack.generations().values()))} texts")
    if arguments.verdicts:
        for result in report.results:
            figures = result.figures
            print(result.id, result.verdict, figures.n, figures.leaks, figures.before, figures.after)
            print("   ", {name: round(value, 6) for name, value in sorted(figures.detail.items())})


if __name__ == "__main__":
    main()
