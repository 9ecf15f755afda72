"""Editors: methods that change what a model says, found by name."""

from typing import TYPE_CHECKING, Any

from safeedit.registry import Registry

if TYPE_CHECKING:
    from safeedit.editors.base import Editor

EDITORS: "Registry[Editor]" = Registry(
    kind="editor",
    group="safeedit.editors",
    base="safeedit.editors.base:Editor",
    builtin={
        "memit": "safeedit.editors.memit:Memit",
        "alphaedit": "safeedit.editors.alphaedit:AlphaEdit",
        "rome": "safeedit.editors.rome:Rome",
        "r-rome": "safeedit.editors.rome:RRome",
        "emmet": "safeedit.editors.emmet:Emmet",
        "grace": "safeedit.editors.grace:Grace",
        "prune": "safeedit.editors.prune:Prune",
        "ft-l": "safeedit.editors.finetune:FtL",
        "ft-m": "safeedit.editors.finetune:FtM",
    },
)


def get(name: str) -> "type[Any]":
    """The editor class registered under `name`; call it with the editor's settings.

    Raises:
        UsageError: there is no such editor.
    """
    return EDITORS.get(name)
