"""`safeedit ledger`: signed heads of the log over all runs, and proofs that a run is in it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from safeedit.errors import UsageError

from .keys import KeyringFile, passphrase_for
from .options import Json, RunPath
from .output import write, write_json

TSA_VARIABLE = "SAFEEDIT_TSA"

app = typer.Typer(help="Sign the log over all runs, and prove that a run is in it.", no_args_is_help=True)

Workspace = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder that holds runs.")]
SignKeys = Annotated[
    list[Path], typer.Option("--key", metavar="FILE", help="A private key. Repeatable.", show_default=False)
]
Tsa = Annotated[
    str | None,
    typer.Option(
        "--tsa",
        metavar="URL",
        help="A timestamping authority (RFC 3161); it is sent a digest only. Default: SAFEEDIT_TSA, or none.",
    ),
]
ProofFile = Annotated[Path, typer.Argument(metavar="PROOF", help="A proof.", show_default=False)]
ProofOut = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to. Default: standard output.")
]
AboutRun = Annotated[
    Path | None, typer.Option("--run", metavar="RUN", help="The run that it shall be about.")
]


@app.command("checkpoint")
def checkpoint(
    keys: SignKeys, folder: Workspace = Path("runs"), tsa: Tsa = None, as_json: Json = False
) -> None:
    """Sign the head of the ledger as it is now. Keep a copy elsewhere: it shows every later change."""
    from safeedit.evidence.checkpoints import checkpoint as sign
    from safeedit.evidence.signing import SigningKey
    from safeedit.evidence.timestamps import stamper

    url = tsa or os.environ.get(TSA_VARIABLE)
    signers = [SigningKey.load(path, passphrase_for(path)) for path in keys]
    made = sign(folder, signers, stamper(url) if url else None)
    about = made.checkpoint
    if as_json:
        shown = {"size": about.size, "root": about.root, "time": about.time, "line": made.line}
        write_json({"workspace": str(folder), **shown, "stamped": made.stamp is not None, "exit_code": 0})
        return
    from .render import Screen, Words

    screen = Screen()
    screen.line(Words("signed", "bold"), f"{about.size} entries of {folder}: root {about.root}")
    if made.stamp is None:
        screen.line(Words("time  ", "dim"), f"{about.time}, by this machine's clock alone (--tsa)")
    screen.line(Words("keep  ", "dim"), f"line {made.line} of {folder / 'checkpoints.jsonl'}, elsewhere")


@app.command("prove")
def prove(run: RunPath, out: ProofOut = None) -> None:
    """Write a proof that RUN's log is in the ledger that was signed, for somebody who has neither."""
    from safeedit.evidence.proofs import prove as make
    from safeedit.runs.targets import check_file
    from safeedit.tensors.atomic import atomic_write
    from safeedit.tensors.places import writable

    if out is not None:
        check_file(out)
    text = json.dumps(make(run), indent=1) + "\n"
    if out is None:
        write(text)
        return
    with writable(out, "give a file where you can write"):
        atomic_write(out, text)


@app.command("check")
def check(proof: ProofFile, run: AboutRun = None, keyring: KeyringFile = None, as_json: Json = False) -> None:
    """Check a proof; needs no ledger. Exit code 5 where it shows nothing."""
    from safeedit.evidence.keyring import Keyring
    from safeedit.evidence.proofs import check_proof

    if not proof.is_file():
        raise UsageError(f"there is no file {proof}; `safeedit ledger prove RUN -o FILE` writes one")
    found = check_proof(proof.read_bytes(), Keyring.load(keyring), run)
    if as_json:
        write_json({**asdict(found), "ok": True, "exit_code": 0})
        return
    from .render import Screen, Words

    screen = Screen()
    screen.line(
        Words("proved", "good"), f"run {found.run}: {found.log_length} entries, head {found.log_head}"
    )
    screen.line(Words("ledger", "dim"), f"told at {found.time}, signed at {found.signed}")
    for key in found.keys:
        screen.line(Words("signed", "dim"), f"by {key}")


@app.command("show")
def show(folder: Workspace = Path("runs"), as_json: Json = False) -> None:
    """Show the ledger's size, its root and its last checkpoint; `safeedit verify FOLDER` checks it."""
    from safeedit.evidence.checkpoints import Kept, read_checkpoints
    from safeedit.evidence.ledger import Ledger

    ledger = Ledger.of(folder)
    if not ledger.exists:
        raise UsageError(f"{folder} has no ledger; give the folder that runs were written to")
    head = ledger.head()
    signed = [one for one in read_checkpoints(folder) if isinstance(one, Kept)]
    last = signed[-1].checkpoint.model_dump(mode="json") if signed else None
    if as_json:
        write_json({"ledger": ledger.uuid, "size": head.size, "root": head.root, "checkpoint": last})
        return
    from .render import Screen, Words

    screen = Screen()
    screen.line(Words("ledger    ", "bold"), f"{ledger.uuid}: {head.size} entries, root {head.root}")
    told = f"{last['size']} entries, at {last['time']}" if last else "none yet: safeedit ledger checkpoint"
    screen.line(Words("checkpoint", "dim"), told)
