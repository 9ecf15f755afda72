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
        "pmet": "safeedit.editors.pmet:Pmet",
        "alphaedit": "safeedit.editors.alphaedit:AlphaEdit",
        "rome": "safeedit.editors.rome:Rome",
        "r-rome": "safeedit.editors.rome:RRome",
        "emmet": "safeedit.editors.emmet:Emmet",
        "ultraedit": "safeedit.editors.ultraedit:UltraEdit",
        "grace": "safeedit.editors.grace:Grace",
        "wise": "safeedit.editors.wise:Wise",
        "prune": "safeedit.editors.prune:Prune",
        "ft-l": "safeedit.editors.finetune:FtL",
        "ft-m": "safeedit.editors.finetune:FtM",
        "lora": "safeedit.editors.lora:Lora",
        "dinm": "safeedit.editors.dinm:Dinm",
        "npo": "safeedit.editors.npo:Npo",
        "direction": "safeedit.editors.direction:Direction",
    },
)


def get(name: str) -> "type[Any]":
    """The editor class registered under `name`; call it with the editor's settings.

    Raises:
        UsageError: there is no such editor.
    """
    return EDITORS.get(name)
