"""Extra time a token of a patch in `generate`: pairs of runs with and without it, one after the other.

    python benchmarks/latency.py --editors grace wise --t 100 1000 --runs 60 --cache DIR --json latency.json
    python benchmarks/latency.py --patch RUN/patch --runs 60

Greedy `generate` of 48 tokens for a batch of eight prompts: `half`, where half of them are edited ones,
and `others`, where none is. The prompts' own pass is in the figures. Edits are made once, and the patch kept
in the folder of `--cache`, as a thousand of them take minutes.

Which run of a pair goes first alternates. Extra is the median of the pairs' ratios less one, with the
quartiles, by the clock that `--clock` names: `processor`, the seconds that this process was given, which
other work on the machine moves least (but which do not count what runs on a GPU), or `wall`. Hook is what
the patch's own code takes at its modules at the median token after the first, in milliseconds a token.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from examine import mixed
from exams import Exam, Source
from measures import generated
from rows import settings_by_editor, settings_of, table
from worlds import source

from safeedit.applied import module_of
from safeedit.editors import EDITORS
from safeedit.models.tokens import Batch, pad, pad_id, tokenise
from safeedit.patch import Patch
from safeedit.tensors.atomic import atomic_write
from safeedit.tensors.digest import model_digest

CLOCKS: dict[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}
HEAD = ("editor", "T", "keys", "prompts", "ms a token", "extra", "quartiles", "hook ms")
VERSION = 1
"""Of how edits are made here; kept patches are found by it."""

Pair = tuple[float, float]


@dataclass(frozen=True)
class Timing:
    """Seconds a token of a batch, of runs of `generate` in pairs: without the patch, and with it."""

    pairs: list[Pair]
    hook: list[float] = field(default_factory=list)
    """Seconds in the patch's code, of each pass of one run but the first."""

    def quartiles(self) -> tuple[float, float, float]:
        """Of what the patch adds, as a share: lower, median, upper."""
        extra = sorted(after / before - 1 for before, after in self.pairs)
        return extra[len(extra) // 4], statistics.median(extra), extra[3 * len(extra) // 4]

    def base(self) -> float:
        """The median without the patch."""
        return statistics.median(before for before, _ in self.pairs)


@torch.no_grad()
def timed(
    once: Callable[[], Any], edited: Callable[[], AbstractContextManager[Any]], runs: int, clock: str
) -> list[Pair]:
    """Seconds of `once` without and with the edit, `runs` times; what putting it on takes is not counted."""

    def seconds() -> float:
        start = CLOCKS[clock]()
        once()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return CLOCKS[clock]() - start

    def with_edit() -> float:
        with edited():
            return seconds()

    seconds(), with_edit()
    pairs = []
    for run in range(runs):
        if run % 2:
            after = with_edit()
            pairs.append((seconds(), after))
        else:
            pairs.append((seconds(), with_edit()))
    return pairs


@contextmanager
def watched(model: Any, patch: Patch, seen: list[float], clock: str) -> Iterator[None]:
    """With the patch on: what its memories take at each pass is appended to `seen`."""
    now, starts = CLOCKS[clock], [0.0]
    modules = [module_of(model, name) for name in patch.memories]

    def before(*_: Any) -> None:
        starts[0] = now()

    def after(*_: Any) -> None:
        seen.append(now() - starts[0])

    with ExitStack() as stack:
        # A module calls its hooks in the order in which they came.
        for module in modules:
            stack.callback(module.register_forward_hook(before).remove)
        stack.enter_context(patch.applied(model, check="none"))
        for module in modules:
            stack.callback(module.register_forward_hook(after).remove)
        yield


@torch.no_grad()
def measured(model: Any, patch: Patch, batch: Batch, tokenizer: Any, spec: Mapping[str, Any]) -> Timing:
    """One row's timing."""
    tokens, clock = spec["tokens"], spec["clock"]
    once = partial(generated, model, tokenizer, batch, tokens, do_sample=False)
    pairs = timed(once, partial(patch.applied, model, check="none"), spec["runs"], clock)
    seen: list[float] = []
    with watched(model, patch, seen, clock):
        once()
        seen.clear()
        once()
    first = len(patch.memories)
    return Timing([(a / tokens, b / tokens) for a, b in pairs], seen[first:])


def prompts_of(exam: Exam, count: int) -> dict[str, list[str]]:
    """Eight prompts, half of them edited ones, and as many about other people."""
    others = [ask.prompt for ask in exam.kept["neighbours"][:count]]
    return {"half": mixed(exam, count), "others": others}


def made(data: Source, model: Any, tokenizer: Any, spec: Mapping[str, Any], cache: Path) -> Patch:
    """The patch of the first edits, from the folder where an earlier row left it."""
    named = {name: spec[name] for name in ("editor", "t", "op", "settings", "seed")}
    key = json.dumps([VERSION, model_digest(model), named], sort_keys=True)
    folder = cache / f"{spec['editor']}-{spec['t']}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.exists():
        exam = data.exam(spec["op"], spec["t"])
        editor = EDITORS.get(spec["editor"])(**settings_of(spec["settings"]))
        args = {"corpus": exam.corpus, "cache": cache, "seed": spec["seed"]}
        cache.mkdir(parents=True, exist_ok=True)
        patch = editor.edit(model, tokenizer, data.keeping(exam.edits), **args)
        partly = folder.with_name(f".{folder.name}.partly")
        patch.save(partly)
        partly.rename(folder)
    return Patch.load(folder)


def keys_of(patch: Patch) -> int:
    """How many keys inputs are compared with; 0 where nothing is."""
    return sum(
        len(m.tensors["limits" if "limits" in m.tensors else "radii"]) for m in patch.memories.values()
    )


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    timing = Timing([(before, after) for before, after in row["pairs"]], row["hook"])
    lower, middle, upper = (f"{100 * share:+.1f} %" for share in timing.quartiles())
    hook = f"{1e3 * statistics.median(timing.hook):.3f}" if timing.hook else "–"
    what = (row["editor"], row["t"], row["keys"] or "–", row["prompts"])
    return [*map(str, what), f"{1e3 * timing.base():.2f}", middle, f"{lower} … {upper}", hook]


def arguments(given: Sequence[str] | None = None) -> Any:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", default="reference", help="`reference`, or the folder of a yardstick")
    parser.add_argument("--editors", nargs="+", default=["grace", "wise"], metavar="NAME")
    parser.add_argument("--op", choices=["modify", "erase", "insert"], default="modify")
    parser.add_argument("--t", type=int, nargs="+", default=[100, 1000], help="edits")
    parser.add_argument("--patch", type=Path, help="a saved patch of the world's model, instead of editors")
    parser.add_argument("--runs", type=int, default=60, help="pairs of runs")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8, help="prompts")
    parser.add_argument("--clock", choices=list(CLOCKS), default="processor")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="folder for patches and key statistics")
    parser.add_argument("--set", nargs="*", default=[], metavar="EDITOR.NAME=VALUE", help="settings")
    parser.add_argument("--json", type=Path, help="where rows are kept, and looked for first")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(given)
    if args.patch is None and args.cache is None:
        parser.error("--cache: give a folder for the patches")
    return args


def main(given: Sequence[str] | None = None) -> None:
    """Measure what is missing, then print everything."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    data = source(args.world)
    model, tokenizer = data.load()
    rows: dict[str, Any] = (
        json.loads(args.json.read_text("utf-8")) if args.json and args.json.exists() else {}
    )
    common = {
        name: getattr(args, name) for name in ("world", "op", "runs", "tokens", "batch", "clock", "seed")
    }
    specs: list[dict[str, Any]] = []
    if args.patch is not None:
        specs.append({"editor": str(args.patch), "t": max(args.t), "settings": []})
    else:
        settings = settings_by_editor(args.set, args.editors)
        specs += [{"editor": e, "t": t, "settings": settings[e]} for e in args.editors for t in args.t]
    body = []
    for spec in (common | spec for spec in specs):
        exam = data.exam(spec["op"], spec["t"])
        for kind, prompts in prompts_of(exam, spec["batch"]).items():
            key = " ".join(f"{name}={value}" for name, value in spec.items()) + f" prompts={kind}"
            if key not in rows:
                patch = (
                    Patch.load(args.patch) if args.patch else made(data, model, tokenizer, spec, args.cache)
                )
                ids = [text.ids for text in tokenise(tokenizer, prompts)]
                batch = pad(ids, pad_id(tokenizer), "left").to(model.device)
                timing = measured(model, patch, batch, tokenizer, spec)
                rows[key] = spec | asdict(timing) | {"prompts": kind, "keys": keys_of(patch)}
                if args.json is not None:
                    atomic_write(args.json, json.dumps(rows))
            body.append(cells(rows[key]))
            print(" | ".join(body[-1]), file=sys.stderr)
    print("\n".join(table(HEAD, body)))


if __name__ == "__main__":
    main()
