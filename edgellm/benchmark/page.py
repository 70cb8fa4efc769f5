"""Page of a comparison: one HTML file with its plots and no reference to anything outside."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from edgellm.benchmark.comparison import Line, Named, interval, joules, lines, problems, ratio, share, shown
from edgellm.benchmark.plots import Bar, Curve, Group, bars, curves
from edgellm.benchmark.report import Row
from edgellm.errors import size_text

_STYLE = """
:root { --ink: #1c2430; --paper: #fff; --soft: #5b6675; --grid: #e3e7ec; --warn: #a33a00;
  --s0: #2f6fb0; --s1: #d1732c; --s2: #3d8f5f; --s3: #8a56a8; --s4: #b0a02a; --s5: #b04860; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14181d; --soft: #9aa5b3;
  --grid: #2b323b; --warn: #ff9a5c; --s0: #6aa9e6; --s1: #ef9a5a; --s2: #6cc28f; --s3: #c08fdc; --s4: #d8c85a;
  --s5: #e67f96; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1120px; padding: 24px 20px 60px; }
h1 { font-size: 24px; } h2 { font-size: 18px; margin: 36px 0 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: 4px 10px 4px 0; text-align: left; border-bottom: 1px solid var(--grid);
  white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
/* On a phone a plot scrolls, as its text would be too small to read. */
.plot { max-width: 900px; overflow-x: auto; } svg { width: 100%; min-width: 620px; height: auto; }
text { font-size: 12px; fill: var(--ink); }
text.tick { fill: var(--soft); font-size: 11px; }
.key { display: flex; flex-wrap: wrap; gap: 2px 22px; } .key span { white-space: nowrap; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }
.warn { color: var(--warn); } p.small { color: var(--soft); font-size: 13px; }
"""


def page(records: Sequence[Named]) -> str:
    """The page, as text."""
    found = lines(records)
    parts = [f"<h1>{len(records)} records of benchmarks</h1>", _key(records)]
    parts += [f'<p class="warn">{html.escape(problem)}</p>' for problem in problems(records)]
    parts += ["<h2>Tokens a second</h2>", _plot(bars(_groups(found, _speed), "tok/s"))]
    parts.append('<p class="small">Whiskers: confidence interval of the mean, 95 %.</p>')
    shares = _groups(found, lambda row: _bar(share(row), "{:.0f} %"))
    if shares:
        parts += ["<h2>Percent of the machine's limit</h2>", _plot(bars(shares, "%"))]
        parts.append(
            '<p class="small">Prompts: the least time of their multiply-adds at the measured rates. Answers: '
            "bytes read, of the measured rate of reading.</p>"
        )
    parts += _over_time(records)
    energies = _groups(found, lambda row: _bar(joules(row), "{:.3g} J"))
    if energies:
        parts += ["<h2>Joules per token</h2>", _plot(bars(energies, "J"))]
        parts.append('<p class="small">Without the power of the idle machine, where it could be read.</p>')
    parts += ["<h2>Figures</h2>", _figures(records, found), "<h2>Devices</h2>", _devices(records)]
    title = html.escape(", ".join(named.name for named in records))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _key(records: Sequence[Named]) -> str:
    entries = (
        f'<span><i style="background:var(--s{i % 6})"></i>{html.escape(named.name)}</span>'
        for i, named in enumerate(records)
    )
    return f'<p class="key">{"".join(entries)}</p>'


def _plot(svg: str) -> str:
    return f'<div class="plot">{svg}</div>'


Pick = TypeVar("Pick")
Shown = tuple[float, tuple[float, float] | None, str]


def _groups(found: Sequence[Line], read: Callable[[Row], Shown | None]) -> list[Group]:
    groups = []
    for line in found:
        values = [(i, read(row)) for i, row in enumerate(line.rows) if row is not None]
        drawn = tuple(Bar(i, *value) for i, value in values if value is not None)
        if drawn:
            groups.append(Group(f"{line.model}, {line.test}", drawn))
    return groups


def _speed(row: Row) -> Shown:
    mean, low, high = interval(row["samples_ts"])
    return mean, None if math.isnan(low) else (low, high), f"{mean:.1f}"


def _bar(value: float | None, form: str) -> Shown | None:
    return None if value is None else (max(value, 0.0), None, form.format(value))


def _over_time(records: Sequence[Named]) -> list[str]:
    """Speed of sustained runs with the temperature, each from its own start."""
    drawn = []
    for i, named in enumerate(records):
        paces = named.record.sustained
        if len(paces) < 2:
            continue
        start = paces[0].t_s
        drawn.append(Curve(i, tuple((pace.t_s - start, pace.tok_s) for pace in _thin(paces))))
        heat = tuple(
            (moment.t_s - start, moment.temperature_c)
            for moment in _thin(named.record.moments)
            if moment.temperature_c is not None and start <= moment.t_s <= paces[-1].t_s
        )
        if len(heat) > 1:
            drawn.append(Curve(i, heat, right=True))
    if not drawn:
        return []
    return ["<h2>Tokens a second over time</h2>", _plot(curves(drawn, "tok/s", "°C"))]


def _thin(values: Sequence[Pick], most: int = 400) -> Sequence[Pick]:
    """At most `most` values, evenly chosen."""
    return values[:: max(1, -(-len(values) // most))]


def _figures(records: Sequence[Named], found: Sequence[Line]) -> str:
    titles = [
        *("model", "test", "record", "set", "threads", "tok/s (95 %)", "ratio", "of limit", "J/token"),
        "tokens",
    ]
    with_energy = any(joules(row) is not None for line in found for row in line.rows if row is not None)
    if not with_energy:
        titles.remove("J/token")
    out = ["".join(f"<th>{title}</th>" for title in titles)]
    for line in found:
        base: Row | None = None
        for named, row in zip(records, line.rows, strict=True):
            if row is None:
                continue
            percent, energy = share(row), joules(row)
            numbers = [
                shown(interval(row["samples_ts"]), ".1f"),
                "" if base is None else shown(ratio(row["samples_ts"], base["samples_ts"]), ".2f"),
                "" if percent is None else f"{percent:.0f} %",
            ]
            if with_energy:
                numbers.append("" if energy is None else f"{energy:.3g}")
            base = base or row
            words = (line.model, line.test, named.name, row["isa"], str(row["n_threads"]))
            cells = [f"<td>{html.escape(word)}</td>" for word in words]
            cells += [f'<td class="n">{number}</td>' for number in numbers]
            wrong = row.get("tokens_right") is False
            mark, word = (' class="warn"', " wrong") if wrong else ("", "")
            cells.append(f"<td{mark}>{html.escape(row['tokens_hash'])}{word}</td>")
            out.append("".join(cells))
    return f"<table>{''.join(f'<tr>{cells}</tr>' for cells in out)}</table>"


# Names of the facts of a device whose keys say too little.
_FACTS = {"soc": "system on chip", "n_cpus": "CPUs", "n_allowed": "CPUs that edgellm may use"}


def _devices(records: Sequence[Named]) -> str:
    """Facts of the devices; those that none of them tells are left out."""
    keys = dict.fromkeys(key for named in records for key in named.record.device)
    facts = {
        _FACTS.get(key, key.replace("_", " ")): [
            _fact(key, named.record.device.get(key)) for named in records
        ]
        for key in keys
    }
    facts["idle power"] = [
        "" if r.idle_watts is None else f"{r.idle_watts:.1f} W ({r.power_source})"
        for r in (named.record for named in records)
    ]
    rows = ["<th></th>" + "".join(f"<th>{html.escape(named.name)}</th>" for named in records)]
    for name, values in facts.items():
        if any(values):
            cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
            rows.append(f"<td>{html.escape(name)}</td>{cells}")
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _fact(key: str, value: object) -> str:
    if value is None:
        return ""
    if key == "memory" and isinstance(value, int):
        return size_text(value)
    if isinstance(value, list):
        return "; ".join(_cores(kind, len(value) == 1) for kind in value)
    return str(value)


def _cores(kind: Mapping[str, object], alone: bool) -> str:
    """Cores of one kind: how many, their clock, and their speed beside others if there are any."""
    parts = [f"{kind.get('n')} cores"]
    if kind.get("max_mhz"):
        parts.append(f"up to {kind['max_mhz']:.0f} MHz")
    if not alone:
        parts.append(f"speed {kind.get('speed')}")
    return ", ".join(parts)
