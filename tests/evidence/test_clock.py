"""Due dates, by hand: each from the text that sets it."""

from __future__ import annotations

from datetime import date, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeedit.evidence.clock import RULES, business_days_after, deadline
from safeedit.policy import Policy
from safeedit.policy.model import Regime

D = date.fromisoformat
DAYS = st.dates(date(2018, 5, 25), date(2090, 1, 1))


@pytest.mark.parametrize(
    ("received", "due", "last"),
    [
        ("2026-11-02", "2026-12-02", "2026-12-02"),
        ("2026-01-31", "2026-02-28", "2026-03-02"),  # No 31st of February; that Saturday moves to Monday.
        ("2028-01-31", "2028-02-29", "2028-02-29"),
        ("2026-08-31", "2026-09-30", "2026-09-30"),
        ("2026-12-31", "2027-01-31", "2027-02-01"),  # A Sunday.
        ("2026-10-05", "2026-11-05", "2026-11-05"),
    ],
)
def test_a_month_is_counted_as_the_regulation_counts_it(received: str, due: str, last: str) -> None:
    found = deadline("gdpr-17", D(received))
    assert (found.due, found.last) == (D(due), D(last))
    assert not found.overdue(D(last))
    assert found.overdue(D(last) + timedelta(days=1))


def test_an_extension_gives_two_further_months_if_it_was_told_within_the_first() -> None:
    in_time = deadline("gdpr-17", D("2026-11-02"), D("2026-12-02"))
    late = deadline("gdpr-17", D("2026-11-02"), D("2026-12-03"))
    before = deadline("gdpr-17", D("2026-11-02"), D("2026-11-01"))
    assert (in_time.due, in_time.extended) == (D("2027-02-02"), True)
    assert late.due == before.due == D("2026-12-02")
    assert not late.extended
    assert not before.extended


def test_california_counts_calendar_days_and_business_days() -> None:
    found = deadline("ccpa-delete", D("2026-11-06"))  # A Friday.
    assert found.due == found.last == D("2026-12-21")
    assert found.acknowledge_by == D("2026-11-20")
    assert deadline("ccpa-delete", D("2026-11-06"), D("2026-12-01")).due == D("2027-02-04")
    assert deadline("delete-act", D("2026-11-06"), D("2026-12-01")).due == D("2026-12-21")
    assert RULES["delete-act"].cycle_days == 45


@pytest.mark.parametrize("regime", ["safety", "internal"])
def test_without_a_law_nothing_is_ever_late(regime: Regime) -> None:
    found = deadline(regime, D("2020-01-01"), D("2020-01-02"))
    assert found.due is None
    assert found.days_left(D("2030-01-01")) is None
    assert not found.overdue(D("2030-01-01"))


def test_every_regime_has_a_rule_and_a_source() -> None:
    assert RULES.keys() == set(get_args(Regime))
    for rule in RULES.values():
        assert rule.source
        assert (rule.extended is None) == (rule.notice is None) == (not rule.extension_source)
        assert (rule.acknowledge_days is None) == (not rule.acknowledge_source)
        assert (rule.cycle_days is None) == (not rule.cycle_source)


@given(day=DAYS, regime=st.sampled_from(get_args(Regime)))
def test_the_policy_and_the_clock_agree(day: date, regime: Regime) -> None:
    policy = Policy.model_validate(
        {
            "apiVersion": "safeedit/v1",
            "metadata": {"id": "x", "regime": regime, "received": day},
            "operations": [{"op": "erase", "subjects": [{"name": "Nobody Atall"}]}],
        }
    )
    assert deadline(regime, day).due == policy.due()


@given(day=DAYS, count=st.integers(0, 40))
def test_business_days_skip_week_ends(day: date, count: int) -> None:
    found = business_days_after(day, count)
    between = [day + timedelta(days=n) for n in range(1, (found - day).days + 1)]
    assert sum(one.weekday() < 5 for one in between) == count


@given(day=DAYS)
def test_the_last_day_is_never_before_the_safe_one(day: date) -> None:
    found = deadline("gdpr-17", day)
    assert found.due is not None
    assert found.last is not None
    assert found.due <= found.last <= found.due + timedelta(days=2)
    assert found.last.weekday() < 5
