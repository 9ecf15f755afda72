"""Editors on real facts in a model that this project did not train (CounterFact, ParaRel).

    python benchmarks/yardstick.py FOLDER --op modify --records 1 10 50 100 300
    python benchmarks/yardstick.py FOLDER --op erase --records 50 --objectives neutral entropy lens refusal
    python benchmarks/yardstick.py FOLDER --editor ft-m --records 50

FOLDER holds the model, the records and their scorer (`score.py`); it is not part of this repository.
Key statistics are taken over text that the model itself writes (no fact of the records is used),
and timed apart. Prints rows of a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from rows import settings_of
from worlds import load, record_edits, scorer

from safeedit.editors import EDITORS
from safeedit.editors.memit import chosen_layers
from safeedit.editors.statistics import Corpus, OwnText, cached_moments, second_moments
from safeedit.models.structure import find_decoder
from safeedit.tensors.digest import model_digest


def score(board: Any, module: ModuleType, model: Any, tokenizer: Any, n: int) -> dict[str, Any]:
    """The scorer's figures; views without a row (there are some at one record) are left out."""
    views = {name: rows for name, rows in board.views(n).items() if rows}
    found: dict[str, Any] = {}
    for name, rows in views.items():
        prompts, true, new = map(list, zip(*rows, strict=True))
        said = module.greedy(model, tokenizer, prompts)
        found[name] = {"true": module.says(said, true), "new": module.says(said, new)}
    found["perplexity"] = module.perplexity(model, tokenizer, board.prose[:200])
    return found


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--editor", choices=EDITORS.names(), default="memit")
    parser.add_argument("--op", choices=["modify", "erase"], default="modify")
    parser.add_argument("--records", type=int, nargs="+", default=[50])
    parser.add_argument("--objectives", nargs="+", default=["neutral"], help="of erasures, by MEMIT")
    parser.add_argument("--statistics-tokens", type=int, default=120_000)
    parser.add_argument("--cache", type=Path, required=True, help="folder for key statistics")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the editor")
    args = parser.parse_args()
    params = settings_of(args.set)
    module = scorer(args.folder)
    board = module.Yardstick.open(args.folder)
    model, tokenizer = load(args.folder / "model")
    corpus = OwnText(args.statistics_tokens)
    decoder = find_decoder(model)
    layers = chosen_layers(params.get("layers"), len(decoder.blocks))
    cached_moments(decoder, tokenizer, corpus, layers, base_digest=model_digest(model), cache=args.cache)
    texts = Corpus(board.prose[200:] * 40, max_tokens=args.statistics_tokens)
    start = time.perf_counter()
    found = second_moments(decoder, tokenizer, texts, layers)
    seconds = time.perf_counter() - start
    print(f"statistics over given text: {seconds:.2f} s for {len(layers)} layers, {found.tokens} tokens")
    for n in args.records:
        before = score(board, module, model, tokenizer, n)
        for objective in args.objectives if args.op == "erase" else args.objectives[:1]:
            start = time.perf_counter()
            editor = EDITORS.get(args.editor)
            aims = {"objective": objective} if "objective" in editor.Params.model_fields else {}
            patch = editor(**{**aims, **params}).edit(
                model, tokenizer, record_edits(board.records[:n], args.op), corpus=corpus, cache=args.cache
            )
            seconds = time.perf_counter() - start
            with patch.applied(model):
                after = score(board, module, model, tokenizer, n)
            said = "new" if args.op == "modify" else "true"
            cells = [
                f"{args.op} {n}" + (f", {objective}" if args.op == "erase" else ""),
                *(
                    f"{after[v][said]:.3f}" if v in after else "–"
                    for v in ("rewrite", "paraphrase", "unseen")
                ),
                f"{before['neighbour']['true']:.3f} → {after['neighbour']['true']:.3f}",
                f"×{after['perplexity'] / before['perplexity']:.4f}",
                f"{seconds / n:.3f}",
            ]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
