"""Plots as SVG text: lines with confidence bands, and bars. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "bars", "lines", "round_up"]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 12, 46


@dataclass(frozen=True, slots=True)
class Series:
    """One line: points (x, y, low, high), and the number of its colour."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to pixels."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(max(value, self.low)), math.log10(low), math.log10(high)
        share = (min(max(value, low), high) - low) / (high - low or 1.0)
        return self.start + share * (self.stop - self.start)


def lines(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float],
    show_x: Callable[[float], str],
    y_limit: float | None = None,
    mark_y: tuple[float, str] | None = None,
    mark_x: float | None = None,
    logarithmic_x: bool = False,
    even: bool = False,
) -> str:
    """A plot of lines with their bands.

    Args:
        y_limit: top of the y axis; by default a round number above all bands.
        mark_y: a level to draw across, with its name.
        mark_x: a value to mark.
        even: x positions at even distances in the order of `x_ticks`, instead of to scale.
    """
    top = y_limit or round_up(max((high for each in series for *_, high in each.points), default=1.0))
    place: Callable[[float], float]
    if even:
        order = {value: at for at, value in enumerate(x_ticks)}
        scale = Axis(0, max(len(x_ticks) - 1, 1), LEFT, WIDTH - RIGHT)

        def place(value: float) -> float:
            return scale(order[value])
    else:
        place = Axis(min(x_ticks), max(x_ticks), LEFT, WIDTH - RIGHT, logarithmic_x)
    y = Axis(0.0, top, HEIGHT - BOTTOM, TOP)
    parts = _y_axis(y, top)
    for tick in x_ticks:
        parts.append(
            f'<text x="{place(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" class="middle">{escape(show_x(tick))}</text>'
        )
    if mark_x is not None:
        parts.append(
            f'<line x1="{place(mark_x):.1f}" x2="{place(mark_x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="mark"/>'
        )
    if mark_y is not None and mark_y[0] <= top:
        at = y(mark_y[0])
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="mark"/>')
    for each in series:
        above = [f"{place(x):.1f},{y(high):.1f}" for x, _, _, high in each.points]
        below = [f"{place(x):.1f},{y(low):.1f}" for x, _, low, _ in reversed(each.points)]
        line = " ".join(f"{place(x):.1f},{y(value):.1f}" for x, value, _, _ in each.points)
        parts.append(f'<polygon points="{" ".join(above + below)}" class="band c{each.colour}"/>')
        parts.append(f'<polyline points="{line}" class="line c{each.colour}"/>')
        for x, value, low, high in each.points:
            told = f"{each.name} at {show_x(x)}: {_percent(value)} ({_percent(low)} to {_percent(high)})"
            parts.append(
                f'<circle cx="{place(x):.1f}" cy="{y(value):.1f}" r="3.5" class="dot c{each.colour}">'
                f"<title>{escape(told)}</title></circle>"
            )
    if mark_y is not None and mark_y[0] <= top:  # last, so that its name stands above the lines
        parts.append(f'<text x="{LEFT + 6}" y="{y(mark_y[0]) - 5:.1f}" class="halo">{escape(mark_y[1])}</text>')
    return _frame(parts, title, x_label, y_label)


def bars(values: Sequence[tuple[str, float]], *, title: str, x_label: str, y_label: str) -> str:
    """A bar for each named value, counts on the y axis."""
    top = round_up(max((value for _, value in values), default=1.0))
    y = Axis(0.0, top, HEIGHT - BOTTOM, TOP)
    parts = _y_axis(y, top, share=False)
    step = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    every = max(1, len(values) // 10)
    for at, (name, value) in enumerate(values):
        x = LEFT + at * step
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y(value):.1f}" width="{max(step - 2, 1):.1f}" '
            f'height="{HEIGHT - BOTTOM - y(value):.1f}" class="bar">'
            f"<title>{escape(f'{name}: {value:g}')}</title></rect>"
        )
        if at % every == 0:
            parts.append(
                f'<text x="{x + step / 2:.1f}" y="{HEIGHT - BOTTOM + 17}" class="middle">{escape(name)}</text>'
            )
    return _frame(parts, title, x_label, y_label)


def _y_axis(y: Axis, top: float, *, share: bool = True) -> list[str]:
    parts = []
    for quarter in range(5):
        value = top * quarter / 4
        shown = _percent(value) if share else f"{value:g}"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y(value) + 4:.1f}" class="end">{shown}</text>')
    return parts


def _frame(parts: Sequence[str], title: str, x_label: str, y_label: str) -> str:
    labels = (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" class="middle label">{escape(x_label)}</text>'
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" class="middle label">'
        f"{escape(y_label)}</text>"
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(parts)}{labels}</svg>"
    )


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def round_up(value: float) -> float:
    """The next round number, for the top of an axis."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(factor * unit for factor in (1, 2, 4, 5, 8, 10) if factor * unit >= value)
