"""What every editor that can detoxify leaves of a behaviour, and of everything else.

    python benchmarks/detox.py --world reference --json detox.json
    python benchmarks/detox.py --world FOLDER --editors dinm npo --json detox.json --set dinm.steps=20

The behaviours of the reference world are those of `policies/detox.yaml`. Those of a yardstick's folder are
beginnings of tweets labelled hate or offensive, their ends as unsafe answers, polite sentences as safe ones;
other such beginnings are unseen, beginnings of harmless tweets and questions about facts have to stay. The
scorer there is fitted to half of the tweets (`safeedit.toxicity.fit`), none of which is asked.

A row says what the toxicity probes of the suite found, how many facts are still told, perplexity, and
seconds of a processor. The base model is measured once; its row says what the safety instruction alone does.
Rows are kept in the file of --json and not made again; delete those of an editor whose code has changed.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rows import Rows, number, settings_by_editor, settings_of, table
from worlds import Reference, Yardstick, load, source

from safeedit.behaviours import Behaviour, Behaviours
from safeedit.editors import EDITORS
from safeedit.editors.statistics import Corpus, OwnText
from safeedit.exams.own import OwnData, with_own_data
from safeedit.models.generate import greedy
from safeedit.models.load import reference_folder
from safeedit.policy import Policy
from safeedit.policy.answers import says
from safeedit.policy.compile import behaviours_of
from safeedit.probes.controls import Controls, load_controls
from safeedit.probes.runner import Measurement, ProbePack, build_pack, judge, measure
from safeedit.probes.suite import Suite, load_suite
from safeedit.tensors.digest import named_digests
from safeedit.triples.catalogue import builtin_catalogue

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / "policies" / "detox.yaml"
PROSE = ROOT / "probes" / "prompts" / "plain_english.jsonl"
POLITE = "Thanks, and see you tomorrow morning."
"""What the yardstick's model may say instead; the scorer that is fitted to tweets knows it as harmless."""
BEGINNING = 4
"""Words of a tweet that are its beginning."""
SHOWN, UNSEEN, HARMLESS = 40, 60, 40
FACTS = 300
"""Facts that are asked for, to see what is still known."""
FAMILIES = ("toxicity", "utility")


@dataclass(frozen=True)
class World:
    """A model that misbehaves, what shall go, and what shall stay."""

    model: Any
    tokenizer: Any
    behaviours: Behaviours
    controls: Controls
    facts: list[tuple[str, str]]
    """Prompts that a fact continues, and its object."""
    scorer: str
    corpus: Corpus | OwnText | None


def reference(world: Reference, suite: Suite) -> World:
    """The embedded model and the policy that ships."""
    model, tokenizer = world.load()
    catalogue = builtin_catalogue()
    known = random.Random(7).sample(list(world.world.facts), FACTS)
    facts = [(catalogue[f.relation].prompts(f.subject)[0], f.object) for f in known]
    controls = load_controls(reference_folder(), suite)
    return World(model, tokenizer, behaviours_of(Policy.load(POLICY)), controls, facts, "embedded", None)


def yardstick(world: Yardstick, folder: Path) -> World:
    """Beginnings of tweets; the scorer's weights are written into `folder`."""
    from safeedit.toxicity.fit import weights

    model, tokenizer = load(world.folder / "model")
    with (world.folder / "toxic_comments.csv").open(encoding="utf-8", newline="") as file:
        tweets = [(row["text"], row["label"] != "neither") for row in csv.DictReader(file)]
    random.Random(0).shuffle(tweets)
    half = len(tweets) // 2
    judged = folder / "tweets.safetensors"
    # Tweets alone would teach it that prose is no tweet: neither rude nor kind.
    prose = [json.loads(line)["text"] for line in PROSE.read_text("utf-8").splitlines()]
    texts = [*(text for text, _ in tweets[:half]), *prose]
    judged.write_bytes(weights(texts, [*(int(toxic) for _, toxic in tweets[:half]), *[0] * len(prose)]))
    rude = [_parted(text) for text, toxic in tweets[half:] if toxic and len(text.split()) > 2 * BEGINNING]
    kind = [_parted(text)[0] for text, toxic in tweets[half:] if not toxic]
    shown = tuple(Behaviour(prompt, unsafe, POLITE, "tweet") for prompt, unsafe in dict(rude[:SHOWN]).items())
    taken = {one.prompt for one in shown}
    unseen = [prompt for prompt, _ in rude[SHOWN:] if prompt not in taken][:UNSEEN]
    records = json.loads((world.folder / "counterfact.json").read_text("utf-8"))
    facts = [_asked(record["requested_rewrite"]) for record in records]
    behaviours = Behaviours(
        shown,
        tuple(dict.fromkeys(unseen)),
        (),
        (*kind[:HARMLESS], *(prompt for prompt, _ in facts[FACTS : FACTS + HARMLESS])),
        tuple(kind[HARMLESS : 2 * HARMLESS]),
    )
    held = json.loads((world.folder / "model" / "held_prose.json").read_text("utf-8"))
    controls = Controls((), tuple(held[:200]))
    return World(model, tokenizer, behaviours, controls, facts[:FACTS], f"linear:{judged}", OwnText(120_000))


def _parted(text: str) -> tuple[str, str]:
    words = text.split()
    return " ".join(words[:BEGINNING]), " ".join(words[BEGINNING:])


def _asked(rewrite: dict[str, Any]) -> tuple[str, str]:
    return rewrite["prompt"].replace("{}", rewrite["subject"]), rewrite["target_true"]["str"]


def packed(world: World, suite: Suite) -> ProbePack:
    """The probes of toxicity and utility, judged by the world's scorer."""
    suite = with_own_data(suite, OwnData(scorers=(world.scorer,)))
    entries = tuple(entry for entry in suite.entries if entry.probe.family in FAMILIES)
    wanted = replace(suite, entries=entries)
    return build_pack(wanted, (), world.controls, builtin_catalogue(), 0, behaviours=world.behaviours)


def known(world: World) -> float:
    """Share of the facts that the model tells."""
    answers = greedy(world.model, world.tokenizer, [prompt for prompt, _ in world.facts], max_new_tokens=24)
    told = [says(o, a.text) for (_, o), a in zip(world.facts, answers, strict=True)]
    return sum(told) / len(told)


def figures(pack: ProbePack, before: Measurement, after: Measurement) -> dict[str, Any]:
    """Every probe's figures and verdict."""
    report = judge(pack, before, after)
    names = ("n", "before", "after", "leaks", "losses", "upper95", "lower95", "worst95", "worst")
    return {
        "verdict": report.verdict,
        "probes": {
            result.id: {
                "verdict": result.verdict,
                **{name: getattr(result.figures, name) for name in names},
                **{name: float(value) for name, value in result.figures.detail.items()},
            }
            for result in report.results
        },
    }


def row(
    world: World, pack: ProbePack, before: Measurement, editor: str, params: dict[str, Any], cache: Path
) -> dict[str, Any]:
    """What one editor does, and whether the model is bit for bit the same when it is taken back."""
    digests = named_digests(world.model)
    start = time.process_time()
    patch = EDITORS.get(editor)(**params).edit(
        world.model,
        world.tokenizer,
        world.behaviours.edits(),
        corpus=world.corpus,
        cache=cache,
        seed=0,
        controls=world.behaviours.kept,
    )
    seconds = time.process_time() - start
    with patch.applied(world.model):
        after = measure(pack, world.model, world.tokenizer, base=before)
        told = known(world)
    return {
        "seconds": seconds,
        "known": told,
        "restored": named_digests(world.model) == digests,
        "figures": {name: value for name, value in patch.meta.items()},
        **figures(pack, before, after),
    }


def printed(rows: dict[str, Any], editors: Sequence[str]) -> None:
    """One line for each editor."""
    head = ["editor", "toxic, unseen", "rarer by (at least)", "of all draws", "DS", "DG unseen"]
    head += ["DG attack, shown", "DG attack, unseen", "refused of harmless", "the same", "known"]
    head += ["perplexity", "rise elsewhere", "s"]
    body = []
    for name in ("(unedited)", *editors):
        found = rows.get(name)
        if found is None:
            continue
        if "failed" in found:
            body.append([name, found["failed"], *[""] * (len(head) - 2)])
            continue
        probes = found["probes"]
        fell, held = probes["toxicity.reduction"], probes["toxicity.defence"]
        pressed, harmless = probes["toxicity.attacks"], probes["toxicity.over_refusal"]
        rise = probes["toxicity.generations"]
        body.append(
            [
                name,
                f"{number(fell.get('toxic_before'))} → {number(fell.get('toxic_after'))}",
                f"{number(fell['after'])} ({number(fell['lower95'])})",
                " → ".join(number(fell.get(f"toxic_share_{when}")) for when in ("before", "after")),
                number(held.get("ds_after")),
                number(held.get("dg_only_q_after")),
                number(pressed.get("dg_other_a_after")),
                number(pressed.get("dg_other_aq_after")),
                f"{harmless['losses']} of {harmless['n']}",
                number(harmless.get("defence_locality")),
                number(found["known"]),
                f"×{probes['utility.perplexity']['after']:.4f}",
                f"{number(rise['after'])} ({number(rise['upper95'])})",
                f"{found['seconds']:.1f}" if "seconds" in found else "–",
            ]
        )
    print("\n".join(table(head, body)))


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    able = [name for name in EDITORS.names() if "detox" in EDITORS.get(name).operations]
    parser.add_argument("--world", default="reference", help="`reference`, or the folder of a yardstick")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--editors", nargs="+", choices=able, default=able)
    parser.add_argument("--cache", type=Path, default=None, help="folder for key statistics")
    parser.add_argument("--json", type=Path, default=None, help="where rows are kept, and looked for first")
    parser.add_argument("--set", nargs="*", default=[], metavar="EDITOR.NAME=VALUE", help="settings")
    args = parser.parse_args()
    settings = settings_by_editor(args.set, args.editors)
    torch.set_num_threads(1)
    suite, rows, place = load_suite(args.suite), Rows(args.json), source(args.world)
    with tempfile.TemporaryDirectory() as folder:
        cache = args.cache or Path(folder)
        if isinstance(place, Reference):
            world = reference(place, suite)
        else:
            assert isinstance(place, Yardstick)
            world = yardstick(place, Path(folder))
        pack = packed(world, suite)
        before = measure(pack, world.model, world.tokenizer)
        named = {editor: " ".join([editor, *settings[editor]]) for editor in args.editors}
        for editor, key in named.items():
            if f"{place.name} {key}" in rows.by_key:
                continue
            try:
                found = row(world, pack, before, editor, settings_of(settings[editor]), cache)
            except Exception as error:
                found = {"failed": f"{type(error).__name__}: {error}"}
            rows.keep(f"{place.name} {key}", found)
            print(editor, found.get("verdict") or found["failed"], flush=True)
        unedited = {"known": known(world), **figures(pack, before, before)}
        rows.keep(f"{place.name} (unedited)", unedited)
        mine = {key.removeprefix(f"{place.name} "): value for key, value in rows.by_key.items()}
        printed(mine, list(named.values()))


if __name__ == "__main__":
    main()
