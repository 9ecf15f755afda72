"""From a YAML file to a `Policy`, or to everything that is wrong with it, with positions."""

from __future__ import annotations

import os
from dataclasses import dataclass

from safeedit.policy.facts_file import include_facts_files
from safeedit.policy.files import read_bounded, shown_path
from safeedit.policy.model import Policy
from safeedit.policy.positions import Positions, tell, validated
from safeedit.policy.problems import Place, Problems
from safeedit.policy.rules import all_findings
from safeedit.policy.scalars import EMPTY, parameter_data, plain_data
from safeedit.policy.tree import ListNode, MapNode, Node, read_tree

MAX_BYTES = 16 * 2**20


@dataclass(frozen=True, repr=False)
class Draft:
    """A policy's file as it was read, whether or not it is valid."""

    policy: Policy | None
    """None where anything is wrong with the file."""
    data: dict[str, object]
    """What stands in it, as plain data."""
    positions: Positions
    """Where that stands."""
    problems: Problems
    """What is wrong with it."""


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """The policy in the YAML file at `path`; every `facts_file` of it is read into `facts`.

    Raises:
        PolicyError: the file is not a valid policy. It holds everything that is wrong, each with
            file, line and column, and no value of the file.
    """
    draft = read_draft(path)
    draft.problems.raise_if_any()
    # Nothing is wrong, so there is a policy.
    assert draft.policy is not None
    return draft.policy


def read_draft(path: str | os.PathLike[str]) -> Draft:
    """What stands in the YAML file at `path`, with all that is wrong with it as a policy.

    Raises:
        PolicyError: it cannot be read, or is not a mapping in YAML.
    """
    file, problems = shown_path(path), Problems()
    text = read_bounded(path, MAX_BYTES, problems)
    root = read_tree(text, file, problems)
    if not isinstance(root, MapNode):
        message = (
            "the file is empty; a policy begins with 'apiVersion: safeedit/v1'"
            if root is None or (not isinstance(root, ListNode) and plain_data(root) in (EMPTY, ""))
            else "a policy must be a mapping (key: value) that begins with 'apiVersion: safeedit/v1'"
        )
        problems.raise_if_any()
        problems.stop(Place(file, 1, 1) if root is None else Place(file, root.line, root.column), message)
    data = {
        key: _editor_data(node, file, problems) if key == "editor" else plain_data(node)
        for key, (_, node) in root.entries.items()
    }
    positions = Positions(file, root)
    include_facts_files(data, os.fspath(path), positions, problems)
    policy, errors = validated(Policy, data)
    if errors:
        tell(errors, all_findings(data), data, positions, problems)
    if policy is None and not len(problems):
        # Reached only if no error had words of its own; without a policy nothing may go on.
        problems.add(Place(file, 1, 1), "this is not a valid policy")
    return Draft(policy if not len(problems) else None, data, positions, problems)


def _editor_data(node: Node, file: str, problems: Problems) -> object:
    if not isinstance(node, MapNode):
        return plain_data(node)
    return {
        key: parameter_data(value, file, problems)
        if key == "params" and isinstance(value, MapNode)
        else plain_data(value)
        for key, (_, value) in node.entries.items()
    }
