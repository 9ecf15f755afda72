"""When an answer is due: the time limits of each regime, with the text that sets them.

Days are counted conservatively: `due` is the last day that is safe whoever counts, `last` the last
lawful one where it falls on a week-end and the regime moves it on. Public holidays differ from place
to place and are not known here; they could only move `last` further.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from safeedit.policy.model import Regime

SATURDAY = 5


@dataclass(frozen=True)
class Limit:
    """A length of time in whole months and days."""

    months: int = 0
    days: int = 0

    def after(self, day: date) -> date:
        """The day on which the time ends that begins with an event on `day`.

        The day of the event does not count. A time in months ends on the same day of its last month,
        or on that month's last day where there is none (Regulation (EEC, Euratom) No 1182/71, Art. 3(2)(c)).
        """
        month = day.month - 1 + self.months
        year, month = day.year + month // 12, month % 12 + 1
        whole = date(year, month, min(day.day, calendar.monthrange(year, month)[1]))
        return whole + timedelta(days=self.days)


@dataclass(frozen=True)
class Rule:
    """What a regime asks for, and where that is written."""

    answer: Limit | None
    """By when a request is to be answered; None where no law sets a day."""
    source: str
    extended: Limit | None = None
    """By when, counted from receipt, where the extension was told in time."""
    extension_source: str = ""
    notice: Limit | None = None
    """By when the requester has to be told of an extension."""
    moves: bool = False
    """Whether a time that would end on a Saturday or Sunday ends with the next working day."""
    acknowledge_days: int | None = None
    """Business days within which receipt has to be confirmed."""
    acknowledge_source: str = ""
    cycle_days: int | None = None
    """After how many days the deletion has to be done again."""
    cycle_source: str = ""
    notify: bool = False
    """Whether recipients of the data have to be told."""
    notify_source: str = ""


_ONE_MONTH = "GDPR Art. 12(3), counted by Regulation 1182/71 Art. 3"

RULES: Mapping[Regime, Rule] = {
    "gdpr-17": Rule(
        answer=Limit(months=1),
        source=_ONE_MONTH,
        extended=Limit(months=3),
        extension_source="GDPR Art. 12(3): two further months, told with reasons within one month of receipt",
        notice=Limit(months=1),
        moves=True,
        notify=True,
        notify_source="GDPR Art. 19; Art. 17(2) where the data were made public",
    ),
    "correction": Rule(
        answer=Limit(months=1),
        source=f"{_ONE_MONTH} (right to rectification, Art. 16)",
        extended=Limit(months=3),
        extension_source="GDPR Art. 12(3): two further months, told with reasons within one month of receipt",
        notice=Limit(months=1),
        moves=True,
        notify=True,
        notify_source="GDPR Art. 19",
    ),
    "ccpa-delete": Rule(
        answer=Limit(days=45),
        source="Cal. Civ. Code 1798.130(a)(2)(A); 11 CCR 7021(b): 45 calendar days from receipt",
        extended=Limit(days=90),
        extension_source="11 CCR 7021(b): 90 calendar days in all, told with reasons within the first 45",
        notice=Limit(days=45),
        acknowledge_days=10,
        acknowledge_source="11 CCR 7021(a): confirmation within 10 business days",
        notify=True,
        notify_source="Cal. Civ. Code 1798.105(c)(1); 11 CCR 7022(b)",
    ),
    "delete-act": Rule(
        answer=Limit(days=45),
        source="Cal. Civ. Code 1798.99.86(c): within 45 days of receipt through the deletion mechanism",
        cycle_days=45,
        cycle_source="Cal. Civ. Code 1798.99.86(d): deleted again at least once every 45 days",
        notify=True,
        notify_source="Cal. Civ. Code 1798.99.86(c): service providers and contractors",
    ),
    "safety": Rule(answer=None, source="no statutory limit"),
    "internal": Rule(answer=None, source="no statutory limit"),
}


@dataclass(frozen=True)
class Deadline:
    """The days that matter for one request."""

    due: date | None
    """The last safe day for an answer; None where no law sets one."""
    last: date | None
    """The last lawful day: `due`, moved on from a week-end where the regime does so."""
    source: str
    extended: bool = False
    notice_by: date | None = None
    """Until when an extension may be told; None where there is none."""
    acknowledge_by: date | None = None

    def days_left(self, today: date) -> int | None:
        """Days from `today` to `due`; negative once it has passed, None without a limit."""
        return None if self.due is None else (self.due - today).days

    def overdue(self, day: date) -> bool:
        """Whether an answer on `day` is too late in law."""
        return self.last is not None and day > self.last


def deadline(regime: Regime, received: date, extension_told: date | None = None) -> Deadline:
    """The days that a request of `regime` has, received on a day.

    Args:
        regime: the policy's.
        received: the day of receipt. Checking who somebody is does not stop the clock here, though a
            regime may allow it (GDPR Art. 12(6)): what is due early is never late.
        extension_told: the day on which the requester was told of an extension. One that was told too
            late, or that the regime does not know, extends nothing.
    """
    rule = RULES[regime]
    if rule.answer is None:
        return Deadline(None, None, rule.source)
    notice_by = _moved(rule.notice.after(received), rule) if rule.notice else None
    told = extension_told is not None and notice_by is not None and received <= extension_told <= notice_by
    limit, source = rule.answer, rule.source
    if told and rule.extended is not None:
        limit, source = rule.extended, rule.extension_source
    due = limit.after(received)
    confirm = None
    if rule.acknowledge_days is not None:
        confirm = business_days_after(received, rule.acknowledge_days)
    return Deadline(due, _moved(due, rule), source, told, notice_by, confirm)


def business_days_after(day: date, count: int) -> date:
    """The `count`-th day after `day` that is neither a Saturday nor a Sunday."""
    while count:
        day += timedelta(days=1)
        count -= day.weekday() < SATURDAY
    return day


def _moved(day: date, rule: Rule) -> date:
    """`day`, or the Monday after it (Regulation 1182/71, Art. 3(4))."""
    while rule.moves and day.weekday() >= SATURDAY:
        day += timedelta(days=1)
    return day
