"""On which lines of a policy file its parts stand: numbers alone, so that a report can point at them.

The file itself is in the vault, and gone once that is shredded; where it said what is no secret.
"""

from __future__ import annotations

from safeedit.errors import PolicyError
from safeedit.policy.problems import Problems
from safeedit.policy.tree import ListNode, MapNode, TextNode, read_tree

PARTS = ("metadata", "assurance", "editor", "probes", "sign_off", "operations")
KINDS = ("erase", "modify", "insert", "detox")


def policy_lines(text: str) -> dict[str, int]:
    """The line (from 1) of each part that there is, and of the first operation of each kind.

    Nothing where the text has but one line, as a policy that never was a file has.
    """
    if "\n" not in text.strip():
        return {}
    try:
        root = read_tree(text, "policy", Problems())
    except PolicyError:
        return {}
    if not isinstance(root, MapNode):
        return {}
    found = {part: root.entries[part][0].line for part in PARTS if part in root.entries}
    operations = root.entries["operations"][1] if "operations" in root.entries else None
    for node in operations.items if isinstance(operations, ListNode) else ():
        kind = node.entries["op"][1] if isinstance(node, MapNode) and "op" in node.entries else None
        if isinstance(kind, TextNode) and kind.text in KINDS:
            found.setdefault(kind.text, node.line)
    return found
