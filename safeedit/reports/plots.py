"""Before-and-after plots as inline SVG: shapes and words beside colour, a title and a description in each.

One row a probe. The points are what was measured; the bar below them is the rate that counts (leaks or
losses among the units) up to its 95 % bound, or for new facts from the bound up to the rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safeedit.reports.model import ProbePart
from safeedit.reports.words import percent

WIDTH, LEFT, RIGHT, ROW, TOP, BOTTOM = 720, 200, 610, 34, 12, 30
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Bar:
    """An interval on the scale, from 0 to 1."""

    low: float
    high: float


def plottable(probes: Sequence[ProbePart]) -> tuple[ProbePart, ...]:
    """The probes whose figures are shares, measured before and after."""
    return tuple(p for p in probes if p.is_rate and _share(p.before) and _share(p.after))


def plot(name: str, title: str, probes: Sequence[ProbePart]) -> Markup:
    """One plot; `name` makes the ids of its title and description, and is to be unique in the document."""
    height = TOP + ROW * len(probes) + BOTTOM
    parts = [
        Markup(
            '<svg class="plot" role="img" viewBox="0 0 {w} {h}" '
            'aria-labelledby="{n}-title" aria-describedby="{n}-desc">'
            '<title id="{n}-title">{t}</title><desc id="{n}-desc">{d}</desc>'
        ).format(w=WIDTH, h=height, n=name, t=title, d=described(probes)),
        *_scale(height),
    ]
    for index, probe in enumerate(probes):
        parts.extend(_row(probe, TOP + ROW * index + ROW / 2))
    return Markup("").join([*parts, Markup("</svg>")])


def described(probes: Sequence[ProbePart]) -> str:
    """The plot in words, for those who do not see it."""
    told = []
    for probe in probes:
        bar = interval(probe)
        range_ = f"; interval {percent(bar.low)} to {percent(bar.high)}" if bar else ""
        told.append(f"{probe.id}: {percent(probe.before)} before, {percent(probe.after)} after{range_}.")
    return " ".join(told)


def interval(probe: ProbePart) -> Bar | None:
    """The rate that counts with its one-sided 95 % bound; None where no bound was computed."""
    if probe.family == "success" and _share(probe.lower95) and _share(probe.after):
        return Bar(probe.lower95 or 0.0, probe.after or 0.0)
    bad = probe.leaks if probe.leaks is not None else probe.losses
    counted = bad / probe.n if bad is not None and probe.n else probe.after
    if not _share(counted) or not _share(probe.upper95):
        return None
    return Bar(counted or 0.0, max(counted or 0.0, probe.upper95 or 0.0))


def _row(probe: ProbePart, y: float) -> Iterator[Markup]:
    up, down = y - 4, y + 9
    yield Markup('<text class="name" x="{x}" y="{y}">{t}</text>').format(x=LEFT - 14, y=_f(y + 4), t=probe.id)
    yield Markup('<line class="rail" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>').format(a=LEFT, b=RIGHT, y=_f(up))
    gate = probe.gate
    if gate is not None and gate.on in ("after", "upper95", "lower95", "worst95") and _share(gate.value):
        at = _f(_x(gate.value))
        yield Markup('<line class="gate" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>').format(
            x=at, a=_f(y - 13), b=_f(y + 14)
        )
    bar = interval(probe)
    if bar is not None:
        yield Markup('<path class="bar" d="M{a} {t}V{b}M{a} {y}H{z}M{z} {t}V{b}"/>').format(
            a=_f(_x(bar.low)), z=_f(_x(bar.high)), y=_f(down), t=_f(down - 3.5), b=_f(down + 3.5)
        )
    if _share(probe.placebo):
        yield Markup('<path class="placebo" d="M{x} {y}m-3.5 -3.5l7 7m0 -7l-7 7"/>').format(
            x=_f(_x(probe.placebo or 0.0)), y=_f(up)
        )
    before, after = _x(probe.before or 0.0), _x(probe.after or 0.0)
    yield Markup('<circle class="before" cx="{x}" cy="{y}" r="5"/>').format(x=_f(before), y=_f(up))
    yield Markup('<path class="after" d="M{x} {t}L{r} {y}L{x} {b}L{l} {y}Z"/>').format(
        x=_f(after), y=_f(up), t=_f(up - 6), b=_f(up + 6), l=_f(after - 6), r=_f(after + 6)
    )
    told = f"{percent(probe.before)} → {percent(probe.after)}"
    yield Markup('<text class="value" x="{x}" y="{y}">{t}</text>').format(x=WIDTH, y=_f(y + 4), t=told)


def _scale(height: int) -> Iterator[Markup]:
    foot = height - BOTTOM + 4
    for tick in _TICKS:
        x = _f(_x(tick))
        yield Markup('<line class="grid" x1="{x}" x2="{x}" y1="{a}" y2="{b}"/>').format(
            x=x, a=TOP - 6, b=foot
        )
        yield Markup('<text class="tick" x="{x}" y="{y}">{t}</text>').format(
            x=x, y=foot + 16, t=f"{100 * tick:g} %"
        )


def _x(share: float) -> float:
    return LEFT + (RIGHT - LEFT) * share


def _share(value: float | None) -> bool:
    return value is not None and 0.0 <= value <= 1.0


def _f(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
