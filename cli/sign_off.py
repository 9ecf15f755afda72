"""`safeedit sign-off`: a person's decision on a run, signed; or what would be signed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from safeedit.errors import UsageError

from .keys import KeyringFile, passphrase_for
from .options import Json, OptionalRunPath, day
from .output import write, write_json

KeyFile = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Your private key; `safeedit keys new` makes one."),
]
Reject = Annotated[bool, typer.Option("--reject", help="Reject the run; with --reason.")]
Withdraw = Annotated[bool, typer.Option("--withdraw", help="Take back what this key decided before.")]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="CODE", help="Why it is rejected; `--codes` lists the codes."),
]
Expires = Annotated[
    datetime | None,
    typer.Option(
        "--expires",
        metavar="DATE",
        parser=day,
        help="The first day (UTC) on which the approval no longer counts.",
    ),
]
AcceptRisk = Annotated[
    str | None,
    typer.Option(
        "--accept-risk",
        metavar="CODE",
        help="Approve a run that did not pass, or whose suite is no evidence, taking this risk; the "
        "statement says so.",
    ),
]
Codes = Annotated[bool, typer.Option("--codes", help="List the codes for --reason and --accept-risk.")]
Schema = Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the record that is signed.")]
Bundle = Annotated[
    bool,
    typer.Option("--bundle", help="Print what was signed as an in-toto bundle, an envelope a line."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the statement that would be signed; change nothing.")
]


def sign_off(
    run: OptionalRunPath = None,
    key: KeyFile = None,
    reject: Reject = False,
    withdraw: Withdraw = False,
    reason: Reason = None,
    expires: Expires = None,
    accept_risk: AcceptRisk = None,
    keyring: KeyringFile = None,
    dry_run: DryRun = False,
    codes: Codes = False,
    schema: Schema = False,
    bundle: Bundle = False,
    as_json: Json = False,
) -> None:
    """Approve or reject RUN, signed with your key.

    Exit code 0: the decision was taken. `safeedit verify` tells whether enough keys have approved.
    """
    from safeedit.evidence.keyring import Keyring
    from safeedit.evidence.predicates import LIMITATIONS, DecisionWord, published_schema
    from safeedit.evidence.signing import SigningKey
    from safeedit.evidence.signoff import REASONS, RISKS, decide, preview

    if schema:
        write(published_schema())
        return
    if codes:
        write_json({"reasons": REASONS, "risks": RISKS, "limitations": LIMITATIONS})
        return
    if bundle and run is not None:
        write(_bundle(run))
        return
    if run is None or key is None:
        raise UsageError("give the folder of a run, and your key with --key FILE")
    if reject and withdraw:
        raise UsageError("--reject and --withdraw exclude each other; give one of them")
    decision: DecisionWord = "reject" if reject else "withdraw" if withdraw else "approve"
    ring = Keyring.load(keyring)
    signer = SigningKey.load(key, passphrase_for(key))
    until = expires.date() if expires else None
    if dry_run:
        statement = preview(run, signer, decision, reason=reason, expires=until, accept_risk=accept_risk)
        write(statement.decode() + "\n")
        return
    done = decide(run, signer, decision, reason=reason, expires=until, accept_risk=accept_risk, trusted=ring)
    if as_json:
        write_json({"run": str(run), "key": signer.public.key_id, **done.to_json(), "exit_code": 0})
        return
    from .render import Screen, Words

    screen = Screen()
    screen.line(Words(decision, "bold"), f"{run}: signed by {signer.public.key_id}")
    screen.line(Words("sign-off", "dim"), done.line())
    screen.line(Words("next    ", "dim"), f"safeedit verify {run}")


def _bundle(run: Path) -> str:
    from safeedit.evidence.attestation import Attestation
    from safeedit.runs.folder import RunFolder

    kept = Attestation.load(RunFolder.open(run).path)
    if not kept.envelopes:
        raise UsageError(f"{run}: nobody has signed anything; safeedit sign-off RUN --key FILE")
    return kept.bundle()
