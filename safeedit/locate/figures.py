"""The pictures of a trace, and the files that they go into."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from safeedit.errors import UsageError
from safeedit.locate.maps import Map
from safeedit.locate.picture import Drawing, Panel, draw, pillow, png, svg
from safeedit.locate.prompts import Role
from safeedit.locate.request import Located
from safeedit.locate.sites import Kind
from safeedit.tensors.atomic import atomic_write

FORMATS = (".svg", ".png")
KIND_NAMES: dict[Kind, str] = {
    "hidden": "hidden state",
    "mlp": "MLP output",
    "attention": "attention output",
}
ROLE_NAMES: dict[Role, str] = {
    "first_subject": "first subject token",
    "middle_subject": "middle subject tokens",
    "last_subject": "last subject token",
    "first_after": "first token after",
    "further": "further tokens",
    "last": "last token",
}


def restored(kind: Kind, window: int) -> str:
    """What was restored, in words."""
    name = KIND_NAMES[kind]
    return name if kind == "hidden" else f"{name}, over {window} layer{'s' * (window > 1)}"


def check_target(path: str | os.PathLike[str]) -> None:
    """Return only if `write_pictures` can write there; to be asked before anything is computed.

    Raises:
        UsageError: it is neither a picture's name nor a folder, or Pillow is missing for a PNG.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS and not target.is_dir() and (target.suffix or target.exists()):
        raise UsageError("a picture is a file that ends in .svg or .png, or a folder")
    if target.suffix.lower() in FORMATS and target.is_dir():
        raise UsageError("there is a folder of that name where the picture should be")
    if not target.parent.is_dir():
        raise UsageError("the folder that the picture should be in does not exist")
    if target.suffix.lower() == ".png":
        pillow()


def write_pictures(
    located: Located, path: str | os.PathLike[str], *, show_sensitive: bool = False
) -> list[Path]:
    """Write the averages to a file; or, to a folder, the averages and one picture for each prompt.

    Tokens' texts are in the pictures of prompts only if asked for; names of files hold numbers alone.

    Returns:
        What was written.
    """
    target = Path(path)
    if target.suffix.lower() in FORMATS:
        _write(target, average_picture(located))
        return [target]
    target.mkdir(exist_ok=True)
    pictures = {"average.svg": average_picture(located)}
    for number, fact in enumerate(located.facts, 1):
        for phrasing, one in enumerate(fact.maps, 1):
            title = f"{located.policy_id}: fact {number}, {fact.fact.relation}, phrasing {phrasing}"
            pictures[f"fact-{number:04}-{phrasing}.svg"] = prompt_picture(
                located, one, title, show_sensitive=show_sensitive
            )
    for name, picture in pictures.items():
        _write(target / name, picture)
    return [target / name for name in pictures]


def average_picture(located: Located) -> Drawing:
    """Mean effects by token role, a panel for each kind."""
    facts = len(located.facts)
    return draw(
        f"{located.policy_id}: where {located.model} carries {facts} fact{'s' * (facts != 1)}",
        _note(located, located.clean, located.corrupted),
        [
            Panel(
                restored(kind, located.window),
                [(ROLE_NAMES[one.role], one.mean) for one in located.averages if one.kind == kind],
            )
            for kind in located.settings.kinds
        ],
    )


def prompt_picture(located: Located, one: Map, title: str, *, show_sensitive: bool) -> Drawing:
    """The effects of one prompt's tokens from the subject on, a panel for each kind."""
    first = one.prompt.first
    names = token_names(one, show_sensitive=show_sensitive)
    return draw(
        title,
        _note(located, one.clean, one.corrupted),
        [
            Panel(restored(kind, located.window), list(zip(names, one.effects[kind][first:], strict=True)))
            for kind in located.settings.kinds
        ],
    )


def token_names(one: Map, *, show_sensitive: bool) -> Sequence[str]:
    """What stands for each token from the subject on: its role, or its text if asked for."""
    first = one.prompt.first
    if show_sensitive:
        return one.prompt.pieces[first:]
    return [ROLE_NAMES[role].replace("tokens", "token") for role in one.prompt.roles[first:] if role]


def _note(located: Located, clean: float, corrupted: float) -> str:
    how = "to first order" if located.settings.mode == "fast" else "exact"
    return (
        f"probability that one clean state brings back to the object, {how}; "
        f"{clean:.2f} clean, {corrupted:.2f} with noise on the subject"
    )


def _write(path: Path, picture: Drawing) -> None:
    atomic_write(path, png(picture) if path.suffix.lower() == ".png" else svg(picture))
