"""Making a report of a run in any format, and telling the run's log of what was written into a file."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

from safeedit.errors import PolicyError, UsageError
from safeedit.policy import Policy
from safeedit.policy.lines import policy_lines
from safeedit.policy.problems import Problems
from safeedit.policy.tree import MapNode, TextNode, read_tree
from safeedit.reports.gather import gather
from safeedit.reports.model import Report
from safeedit.runs.folder import RunFolder
from safeedit.runs.targets import check_file
from safeedit.tensors.atomic import TEMP_PREFIX, atomic_write
from safeedit.tensors.places import writable

ReportFormat = Literal["html", "md", "json", "junit", "sarif", "cyclonedx", "model-card"]
FORMATS: tuple[ReportFormat, ...] = get_args(ReportFormat)
HTML_FILE = "report.html"


def render(
    report: Report, format: ReportFormat, *, uri: str | None = None, lines: Mapping[str, int] | None = None
) -> str:
    """A report in one of the formats.

    Args:
        report: from `gather`.
        format: one of `FORMATS`.
        uri: for `sarif`: the policy file, as a path from the root of the repository.
        lines: for `sarif`: where the policy's parts stand, in place of what the log has.
    """
    if format == "html":
        from safeedit.reports.html import write_html

        return write_html(report)
    if format == "md":
        from safeedit.reports.markdown import write_markdown

        return write_markdown(report)
    if format == "json":
        from safeedit.reports.data import write_json

        return write_json(report)
    if format == "junit":
        from safeedit.reports.junit import write_junit

        return write_junit(report)
    if format == "sarif":
        from safeedit.reports.fingerprint import fingerprint_key
        from safeedit.reports.sarif import DEFAULT_URI, write_sarif

        return write_sarif(report, fingerprint_key(), uri or DEFAULT_URI, lines)
    if format == "cyclonedx":
        from safeedit.reports.cyclonedx import write_cyclonedx

        return write_cyclonedx(report)
    if format == "model-card":
        from safeedit.reports.card import write_card

        return write_card(report)
    raise UsageError(f"there is no report format {format!r}; there are: {', '.join(FORMATS)}")


def publish(
    run: str | os.PathLike[str],
    format: ReportFormat,
    out: str | os.PathLike[str] | None = None,
    policy: str | os.PathLike[str] | None = None,
) -> tuple[str, Path | None]:
    """Make a report of a run, and write it where it belongs.

    Args:
        run: the run folder.
        format: one of `FORMATS`.
        out: a file, which is replaced; without it HTML goes into the run as `report.html`, and the other
            formats nowhere.
        policy: for `sarif`: the policy file, which results point at.

    Returns:
        the text, and the file that holds it, if one does.

    Raises:
        UsageError: there is no finished run, `out` is no place for a file (`check_file`), or `policy` cannot
            be read or is another run's.
        IntegrityError: the run does not verify.
    """
    folder = Path(run)
    if policy is not None and format != "sarif":
        raise UsageError(
            f"a policy file is for sarif, whose results point at it; {format} has no use for one"
        )
    lines = _lines_of(policy) if policy is not None else None
    target = None if out is None else Path(out)
    if target is not None:
        check_file(target)
    uri = None if policy is None else _uri_of(Path(policy))
    report = gather(folder)
    if policy is not None:
        _check_policy(Path(policy), RunFolder.open(folder))
    text = render(report, format, uri=uri, lines=lines)
    content = text.encode()
    told = {"format": format, "sha256": hashlib.sha256(content).hexdigest()}
    if target is None and format != "html":
        # Nothing stays of what only passes through, so there is nothing to tell of.
        return text, None
    if target is None:
        RunFolder.open(folder).update("report.written", told, files={HTML_FILE: content})
        return text, folder / HTML_FILE
    waiting = target.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
    try:
        with writable(target, "give a file where you can write"):
            atomic_write(waiting, content)
        # The file appears last: there is none that the log does not tell of.
        RunFolder.open(folder).update("report.written", told)
        os.replace(waiting, target)
    finally:
        waiting.unlink(missing_ok=True)
    return text, target


def _uri_of(policy: Path) -> str:
    """Where a code host finds the policy: its path from the root of the repository, as a URI.

    Of a file that is in no repository only its path from here, or its name, is told: folders above may be
    called after a person.
    """
    place = policy.resolve()
    root = next((folder for folder in place.parents if (folder / ".git").exists()), Path.cwd())
    inside = place.relative_to(root) if place.is_relative_to(root) else Path(place.name)
    return quote(inside.as_posix())


def _check_policy(path: Path, run: RunFolder) -> None:
    """Return only if the file is the policy that the run was made of, as far as that can be told.

    The id is always compared; the rest with what the vault has of it, if it can be read and `path` with all
    the files that it names can, too.
    """
    same = _id_in(path) == run.record.id
    given = _loaded(path) if same else None
    kept = _kept_policy(run) if given is not None else None
    if given is not None and kept is not None:
        same = _content(given) == _content(kept)
    if not same:
        raise UsageError(f"{path} is not the policy of this run (id {run.record.id})")


def _id_in(path: Path) -> str | None:
    root = read_tree(path.read_text("utf-8-sig"), "policy", Problems())
    about = root.entries["metadata"][1] if isinstance(root, MapNode) and "metadata" in root.entries else None
    found = about.entries["id"][1] if isinstance(about, MapNode) and "id" in about.entries else None
    return found.text if isinstance(found, TextNode) else None


def _loaded(path: Path) -> Policy | None:
    try:
        return Policy.load(path)
    except PolicyError:
        return None


def _kept_policy(run: RunFolder) -> Policy | None:
    from safeedit.runs.keys import KeyMissingError
    from safeedit.runs.stored import REQUEST, kept_request

    # With facts taken out, what a run was made of is only a part of any file.
    if run.record.replaces is not None or REQUEST not in run.vault.names():
        return None
    try:
        return kept_request(run)[0]
    except KeyMissingError:
        return None


def _content(policy: Policy) -> dict[str, Any]:
    return policy.model_dump(mode="json", exclude_none=True)


def _lines_of(policy: str | os.PathLike[str]) -> dict[str, int]:
    try:
        found = policy_lines(Path(policy).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, PolicyError):
        found = {}
    if not found:
        raise UsageError(f"{policy} is no policy that can be read; give the file that the run was made of")
    return found
