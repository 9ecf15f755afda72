"""`safeedit keys`: key pairs for signing, and whose signatures count here."""

from __future__ import annotations

import os
import sys
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safeedit.errors import UsageError

from .options import Json, day
from .output import write_json

WRITABLE_OUT = "give a folder that you can write in with --out"

app = typer.Typer(help="Make signing keys, and say whose signatures count.", no_args_is_help=True)


class Kind(StrEnum):
    """Signature schemes."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"


class RoleName(StrEnum):
    """What a key is trusted with."""

    APPROVER = "approver"
    EVALUATOR = "evaluator"


Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="What the key is called here: a pseudonym, no address."),
]
KeyringFile = Annotated[
    Path | None,
    typer.Option(
        "--keyring", metavar="FILE", help="A keyring, as for one workspace. Default: your own, for all."
    ),
]
KeyKind = Annotated[Kind, typer.Option("--kind", metavar="|".join(Kind), help="The signature scheme.")]
KeyFolder = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Where the key goes. Default: your state folder."),
]
NoPassphrase = Annotated[
    bool,
    typer.Option("--no-passphrase", help="Leave the key in the open, for machines that guard it themselves."),
]
PublicFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="The public key, in PEM.", show_default=False)
]
Roles = Annotated[
    list[RoleName] | None,
    typer.Option("--role", metavar="|".join(RoleName), help="What it may do. Repeatable. Default: approver."),
]
Since = Annotated[
    datetime | None,
    typer.Option("--from", metavar="DATE", parser=day, help="From which day on (UTC). Default: today."),
]


@app.command("new")
def new(
    name: Name,
    kind: KeyKind = Kind.ED25519,
    out: KeyFolder = None,
    no_passphrase: NoPassphrase = False,
    as_json: Json = False,
) -> None:
    """Make a key pair: NAME.pem, which only you can read, and NAME.pub to give to others.

    The passphrase is taken from SAFEEDIT_KEY_PASSPHRASE, or asked for on a terminal.
    """
    from safeedit.evidence.keyring import is_name, key_folder
    from safeedit.evidence.signing import SigningKey, write_new
    from safeedit.runs.keys import WRITABLE_STATE, state_folder
    from safeedit.runs.targets import check_folder
    from safeedit.tensors.places import writable

    if not is_name(name):
        raise UsageError("a key's name is letters, digits, '.', '_' and '-' (at most 64), and no address")
    if out is not None:
        check_folder(out)
    passphrase = None if no_passphrase else new_passphrase()
    key = SigningKey.generate(kind.value)
    place, advice = (state_folder(), WRITABLE_STATE) if out is None else (out, WRITABLE_OUT)
    with writable(place, advice):
        folder = out if out is not None else key_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        if public.exists():
            raise UsageError(f"{public} is there already; a key is never overwritten, give a new name")
        key.save(private, passphrase)
        write_new(public, key.public.pem(), 0o644)
    if as_json:
        about = {"private": str(private), "public": str(public), "encrypted": passphrase is not None}
        write_json({"key": key.public.key_id, "kind": kind.value, **about, "exit_code": 0})
        return
    from .render import Screen, Words

    screen = Screen()
    screen.line(Words("made   ", "bold"), f"{kind.value} key {key.public.key_id}")
    screen.line(Words("private", "dim"), str(private))
    screen.line(Words("public ", "dim"), str(public))
    screen.line(Words("next   ", "dim"), f"safeedit keys trust {name} {public}")


@app.command("trust")
def trust(
    name: Name, key: PublicFile, role: Roles = None, keyring: KeyringFile = None, as_json: Json = False
) -> None:
    """Let what a key signs count. Make sure by other means than this file whose key it is."""
    from safeedit.evidence import keyring as rings
    from safeedit.evidence.signing import VerifyingKey

    _check_keyring(keyring)
    asked = {one.value for one in role or [RoleName.APPROVER]}
    chosen = tuple(one for one in rings.ROLES if one in asked)
    done = rings.trust(VerifyingKey.load(key), name, chosen, _today(), keyring)
    _tell("trusted", done, as_json)


@app.command("revoke")
def revoke(name: Name, since: Since = None, keyring: KeyringFile = None, as_json: Json = False) -> None:
    """Let what a key signs no longer count, from a day on; what it signed before still does."""
    from safeedit.evidence import keyring as rings

    _check_keyring(keyring)
    done = rings.revoke(name, since.date() if since else _today(), keyring)
    _tell("revoked", done, as_json)


@app.command("list")
def list_keys(keyring: KeyringFile = None, as_json: Json = False) -> None:
    """List the keys whose signatures count."""
    from safeedit.evidence.keyring import Keyring

    keys = Keyring.load(keyring).keys
    if as_json:
        write_json({"keys": [one.to_json() for one in keys]})
        return
    from .render import Column, Screen, Words

    screen = Screen()
    if not keys:
        screen.line("no key is trusted here; safeedit keys trust NAME FILE.pub")
        return
    columns = (Column("key"), Column("id", wraps=True), Column("kind"), Column("roles"), Column("counts"))
    screen.table(
        columns,
        [
            (
                Words(one.name, "bold"),
                one.key.key_id,
                one.kind,
                ", ".join(one.roles),
                f"until {one.revoked}" if one.revoked else f"since {one.added}",
            )
            for one in keys
        ],
    )


def passphrase_for(path: Path) -> bytes | None:
    """The passphrase of the key in `path`: from the environment, or asked for; None where it needs none."""
    from safeedit.evidence.signing import PASSPHRASE_VARIABLE, has_passphrase

    if not has_passphrase(path):
        return None
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None and sys.stdin.isatty():
        given = typer.prompt(f"Passphrase of {path}", hide_input=True, err=True)
    return given.encode() if given else None


def new_passphrase() -> bytes:
    """A passphrase for a new key.

    Raises:
        UsageError: there is none, and nobody to ask.
    """
    from safeedit.evidence.signing import PASSPHRASE_VARIABLE

    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None and sys.stdin.isatty():
        given = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    if not given:
        raise UsageError(f"a key needs a passphrase: set {PASSPHRASE_VARIABLE}, or say --no-passphrase")
    return given.encode()


def _check_keyring(path: Path | None) -> None:
    if path is None:
        return
    from safeedit.runs.targets import check_file

    # A link to a keyring elsewhere is replaced by the keyring.
    check_file(path, link=True)


def _today() -> date:
    return datetime.now(UTC).date()


def _tell(word: str, done: object, as_json: bool) -> None:
    from safeedit.evidence.keyring import TrustedKey

    assert isinstance(done, TrustedKey)
    if as_json:
        write_json({**done.to_json(), "exit_code": 0})
        return
    from .render import Screen, Words

    when = f"from {done.revoked} on" if done.revoked else f"as {', '.join(done.roles)}"
    Screen().line(Words(word, "bold"), f"{done.name} {when}: {done.key.key_id}")
