"""Calendar dates in a text, whatever the order and the spelling of day, month and year."""

from __future__ import annotations

import re

Date = tuple[int, int, int]
"""Year, month, day."""

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH = "|".join(rf"{name[:3]}(?:{name[3:]})?" if len(name) > 3 else name for name in _MONTHS) + "|sept"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(\d{4})"

_DAY_FIRST = re.compile(rf"\b{_DAY}(?: of)?[ .\-]+({_MONTH})\.?,?[ \-]+{_YEAR}\b")
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\.?[ \-]+{_DAY},?[ \-]+{_YEAR}\b")
_YEAR_FIRST = re.compile(rf"\b{_YEAR}[\-/.](\d{{1,2}})[\-/.](\d{{1,2}})\b")
_NUMBERS = re.compile(rf"\b(\d{{1,2}})[\-/.] ?(\d{{1,2}})[\-/.] ?{_YEAR}\b")


def dates_in(folded: str) -> frozenset[Date]:
    """Every date in a folded text; a date such as 3/4/1947 counts as both of its readings."""
    text = folded.casefold()
    found: set[Date] = set()
    for day, month, year in _DAY_FIRST.findall(text):
        found.add((int(year), _month(month), int(day)))
    for month, day, year in _MONTH_FIRST.findall(text):
        found.add((int(year), _month(month), int(day)))
    for year, month, day in _YEAR_FIRST.findall(text):
        found.add((int(year), int(month), int(day)))
    for first, second, year in _NUMBERS.findall(text):
        found |= {(int(year), int(first), int(second)), (int(year), int(second), int(first))}
    return frozenset(date for date in found if 1 <= date[1] <= 12 and 1 <= date[2] <= 31)


def _month(name: str) -> int:
    return next(number for number, full in enumerate(_MONTHS, 1) if full[:3] == name[:3])
