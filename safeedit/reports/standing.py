"""The sign-off of a run, as far as it can be checked on this machine.

What cannot be checked is `unknown`, and never counts as an approval.
"""

from __future__ import annotations

from pathlib import Path

from safeedit.errors import SafeEditError
from safeedit.evidence.keyring import Keyring
from safeedit.evidence.standing import Decision, standing_of
from safeedit.reports.model import DecisionPart, SignOffPart
from safeedit.runs.audit import Clock, utc_now


def sign_off_of(folder: Path, clock: Clock = utc_now) -> SignOffPart:
    """Who has decided on the run in `folder`, by the keys that are trusted here."""
    try:
        found = standing_of(folder, Keyring.load(), clock)
    except SafeEditError:
        return SignOffPart(status="unknown")
    return SignOffPart(status=found.status, needed=found.needed, decisions=tuple(map(_part, found.decisions)))


def _part(one: Decision) -> DecisionPart:
    return DecisionPart(
        decision=one.decision,
        key_id=one.key_id,
        time=one.at,
        reason=one.reason,
        accepted_risk=one.accepted_risk,
        expires=one.expires,
        state=one.state,
    )
