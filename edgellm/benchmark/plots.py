"""Plots as SVG text: grouped bars with intervals, and lines over time. Colours are variables of the page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 860
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 64, 14, 30
_BAR_HEIGHT, _GROUP_GAP = 18, 12
_LABEL_WIDTH = 250
_PLOT_HEIGHT = 260


class Bar(NamedTuple):
    """A bar: its series, value, interval (None: none) and the text at its end."""

    series: int
    value: float
    interval: tuple[float, float] | None
    text: str


class Group(NamedTuple):
    """Bars of one test."""

    label: str
    bars: tuple[Bar, ...]


class Curve(NamedTuple):
    """Points of one series over time; dashed curves have the right axis."""

    series: int
    points: tuple[tuple[float, float], ...]
    right: bool = False


def bars(groups: Sequence[Group], unit: str) -> str:
    """Horizontal bars in groups, on one axis that starts at zero."""
    most = max(
        (max(bar.value, bar.interval[1] if bar.interval else 0.0) for group in groups for bar in group.bars),
        default=1.0,
    )
    ticks = _ticks(0.0, most)
    top = ticks[-1]
    room = WIDTH - _LABEL_WIDTH - 190
    y = _TOP
    parts = []
    for group in groups:
        height = len(group.bars) * (_BAR_HEIGHT + 3)
        parts.append(_text(_LABEL_WIDTH - 10, y + height / 2 + 4, group.label, "end"))
        for bar in group.bars:
            length = room * bar.value / top
            parts.append(
                f'<rect x="{_LABEL_WIDTH}" y="{y:.1f}" width="{max(length, 1):.1f}" height="{_BAR_HEIGHT}" '
                f'rx="2" fill="var(--s{bar.series % 6})"/>'
            )
            end = length
            if bar.interval is not None:
                low, high = (_LABEL_WIDTH + room * max(0.0, x) / top for x in bar.interval)
                middle = y + _BAR_HEIGHT / 2
                ends = "".join(f"M{x:.1f} {middle - 4}v8" for x in (low, high))
                path = f"M{low:.1f} {middle}H{high:.1f}{ends}"
                parts.append(f'<path d="{path}" stroke="var(--ink)" fill="none"/>')
                end = max(end, high - _LABEL_WIDTH)
            parts.append(_text(_LABEL_WIDTH + end + 7, y + 13, bar.text))
            y += _BAR_HEIGHT + 3
        y += _GROUP_GAP
    axis = []
    for tick in ticks:
        x = _LABEL_WIDTH + room * tick / top
        axis.append(f'<path d="M{x:.1f} {_TOP - 6}V{y:.1f}" stroke="var(--grid)"/>')
        axis.append(_text(x, y + 16, f"{tick:g}", "middle", "tick"))
    axis.append(_text(_LABEL_WIDTH + room + 20, y + 16, unit, "start", "tick"))
    return _svg(y + _BOTTOM, [*axis, *parts])


def curves(lines: Sequence[Curve], unit: str, right_unit: str) -> str:
    """Lines over minutes, on an axis at the left and, if any is for it, one at the right."""
    points = [point for line in lines for point in line.points]
    times = [x for x, _ in points]
    first, last = min(times), max(times)
    room, height = WIDTH - _LEFT - _RIGHT, _PLOT_HEIGHT
    parts = []
    scales = {}
    for right in (False, True):
        values = [y for line in lines if line.right is right for _, y in line.points]
        if not values:
            continue
        low = 0.0 if not right else math.floor(min(values) / 10) * 10
        ticks = _ticks(low, max(values))
        scales[right] = ticks
        for tick in ticks:
            y = _TOP + height * (1 - (tick - ticks[0]) / (ticks[-1] - ticks[0]))
            if right:
                parts.append(_text(WIDTH - _RIGHT + 8, y + 4, f"{tick:g}", "start", "tick"))
            else:
                parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="var(--grid)"/>')
                parts.append(_text(_LEFT - 8, y + 4, f"{tick:g}", "end", "tick"))
    for line in lines:
        ticks = scales[line.right]
        path = "L".join(
            f"{_LEFT + room * (x - first) / (last - first or 1):.1f} "
            f"{_TOP + height * (1 - (y - ticks[0]) / (ticks[-1] - ticks[0])):.1f}"
            for x, y in line.points
        )
        dash = ' stroke-dasharray="5 4"' if line.right else ""
        parts.append(
            f'<path d="M{path}" stroke="var(--s{line.series % 6})" fill="none" stroke-width="1.8"{dash}/>'
        )
    bottom = _TOP + height
    # Seconds where the run is short, else minutes.
    scale, name = (1.0, "seconds") if last - first < 180 else (60.0, "minutes")
    for tick in _ticks(0.0, (last - first) / scale):
        x = _LEFT + room * tick * scale / (last - first or 1)
        if x <= WIDTH - _RIGHT + 1:
            parts.append(_text(x, bottom + 18, f"{tick:g}", "middle", "tick"))
    parts.append(_text((WIDTH + _LEFT - _RIGHT) / 2, bottom + 36, name, "middle", "tick"))
    parts.append(_text(_LEFT - 50, bottom + 36, unit, "start", "tick"))
    if True in scales:
        parts.append(_text(WIDTH - 4, bottom + 36, f"{right_unit} (dashed)", "end", "tick"))
    return _svg(bottom + 46, parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to at least `high`, some five of them."""
    span = max(high - low, 1e-9)
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    return [low + step * i for i in range(math.ceil(span / step - 1e-9) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{html.escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"{''.join(parts)}</svg>"
    )
