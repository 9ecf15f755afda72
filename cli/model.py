"""`safeedit model`: signing a folder of model files, and verifying one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .keys import KeyringFile, passphrase_for
from .options import Json
from .output import write_json

app = typer.Typer(
    help="Sign a folder of model files, as `export` writes it, or verify one.", no_args_is_help=True
)


class SignatureFormat(StrEnum):
    """Who shall be able to verify it."""

    SAFEEDIT = "safeedit"
    OPENSSF = "openssf"


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a model.", show_default=False)]
KeyFile = Annotated[Path, typer.Option("--key", metavar="FILE", help="Your private key.")]
Format = Annotated[
    SignatureFormat,
    typer.Option(
        "--format",
        metavar="safeedit|openssf",
        help="safeedit: in-toto in DSSE, nothing else needed. openssf: for model-signing's tools; an extra.",
    ),
]


@app.command("sign")
def sign(
    folder: Folder, key: KeyFile, format: Format = SignatureFormat.SAFEEDIT, as_json: Json = False
) -> None:
    """Sign every file in DIR, by name, size and digest; the signature goes into DIR."""
    from safeedit.evidence import modelfiles, modelsigning
    from safeedit.evidence.signing import SigningKey
    from safeedit.runs.targets import check_folder

    check_folder(folder)
    passphrase = passphrase_for(key)
    signer = SigningKey.load(key, passphrase)
    if format is SignatureFormat.OPENSSF:
        modelsigning.sign_openssf(folder, key, passphrase)
        about, written = {}, folder / modelsigning.SIGNATURE
    else:
        about, written = {"root": modelfiles.sign_model(folder, signer)}, folder / modelfiles.SIGNATURE
    if as_json:
        told = {"model": str(folder), "key": signer.public.key_id, "signature": str(written)}
        write_json({**told, **about, "exit_code": 0})
        return
    from .render import Screen, Words

    screen = Screen()
    screen.line(Words("signed", "bold"), f"{folder} by {signer.public.key_id}")
    screen.line(Words("next  ", "dim"), f"safeedit model verify {folder}")


@app.command("verify")
def verify(folder: Folder, keyring: KeyringFile = None, as_json: Json = False) -> None:
    """Check that DIR holds exactly the files that a trusted key signed. Exit code 5 where it does not."""
    from safeedit.evidence import modelfiles, modelsigning
    from safeedit.evidence.keyring import Keyring

    ring = Keyring.load(keyring)
    only_theirs = (folder / modelsigning.SIGNATURE).is_file()
    if only_theirs and not (folder / modelfiles.SIGNATURE).is_file():
        keys = modelsigning.verify_openssf(folder, ring)
    else:
        keys = modelfiles.verify_model(folder, ring).keys
    if as_json:
        write_json({"model": str(folder), "ok": True, "keys": sorted(keys), "exit_code": 0})
        return
    from .render import Screen, Words

    for one in sorted(keys):
        Screen().line(Words("intact", "bold"), f"{folder}: every file as {one} signed it")
