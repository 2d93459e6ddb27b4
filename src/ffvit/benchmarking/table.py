"""What a benchmark says: its tables, and in plain words what they mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffvit.benchmarking.measure import Benchmark, Row
from ffvit.inference.report import percent
from ffvit.profiling.hardware_peak import machine_name

MOSTLY = 0.6
"""From this share of the machine's matrix product on, most of the time is arithmetic."""

TITLES = {"predict": "Predicting", "train": "Training"}

TOLD = "network", "engine", "precision"
"""What tells rows apart."""


def show(found: Benchmark, console: Console) -> None:
    """Print the tables, what was left out, and what it all means."""
    console.print(f"{machine_name(found.device)}; torch {torch.__version__}", highlight=False, soft_wrap=True)
    for work in ("predict", "train"):
        for rows in _groups([row for row in found.rows if row.work == work]):
            alike = ", ".join(names[0] for names in (_names(rows, each) for each in TOLD) if len(names) == 1)
            flops = f", {digits(rows[0].flops / 1e9)} GFLOP an image" if len(_names(rows, "network")) == 1 else ""
            said = f"{', ' if alike else ''}{alike}{flops}, batch of {found.batch}, {found.rounds} rounds"
            console.print(Text.assemble((f"\n{TITLES[work]}", "bold"), said))
            console.print(_table(rows))
    console.print()
    for its in found.left_out:
        console.print(f"not measured: {its.engine}, {its.precision}: {its.reason}", highlight=False, markup=False)
    for sentence in words(found):
        console.print(sentence, highlight=False, markup=False)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Tables that fit a line: where networks differ and more than they, one for each precision, or for each network."""
    several = [name for name in TOLD if len(_names(rows, name)) > 1]
    if "network" not in several or len(several) == 1:
        return [list(rows)] if rows else []
    by = "network" if "engine" in several else "precision"
    return [[row for row in rows if getattr(row, by) == each] for each in _names(rows, by)]


def _names(rows: Sequence[Row], what: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, what) for row in rows))


def _table(rows: Sequence[Row]) -> Table:
    predicts, scored = rows[0].work == "predict", any(row.answered for row in rows)
    beside = [name for name in TOLD if len(_names(rows, name)) > 1]  # what all rows share stands in the title
    table = Table(box=None, pad_edge=False, padding=(0, 1 if scored else 2, 0, 0), header_style="bold")
    for name in beside:
        table.add_column(name, no_wrap=True)
    heads = ["images/s", *(["p50\nms", "p95\nms"] if predicts else []), "peak\nMiB"]
    heads += [*(["GFLOP\nan image"] if "network" in beside else []), "% of\nproduct"]
    for head in [*heads, *(["top-1", "answers\ndiffer"] if scored else [])]:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        latency, its = row.latency, row.answered
        cells = [_range(row.images_per_second)]
        if latency is not None:
            cells += [digits(1e3 * latency.median), digits(1e3 * latency.percentile_95)]
        cells.append("-" if row.peak is None else f"{row.peak / 2**20:,.0f}")
        cells += [digits(row.flops / 1e9)] if "network" in beside else []
        cells += ["-" if row.share is None else f"{100 * row.share:.0f}"]
        if scored:
            cells += [percent(its.top1), f"{its.differ:,} of {its.images:,}"] if its else ["", ""]
        table.add_row(*(Text(getattr(row, name)) for name in beside), *cells)
    return table


def words(found: Benchmark) -> Iterator[str]:
    """What the tables mean, for someone who reads nothing else."""
    for precision, (size, rates) in found.products.items():
        yield (
            f"100 % is what one large matrix product reaches on this machine in {precision}: "
            f"{_rate(median(rates))} ({size} x {size})."
        )
    for work in ("predict", "train"):
        rows = sorted((row for row in found.rows if row.work == work), key=lambda row: -row.speed)
        if rows:
            yield f"{TITLES[work]}: {_order(rows)}{_limit(rows[0])}"
    for row in found.rows:
        if row.answered and row.precision == "int8":
            its = row.answered
            yield (
                f"In int8 on {row.engine}, {row.network} answers {its.differ:,} of {its.images:,} test images otherwise "
                f"than in fp32, and {percent(its.top1)} of them rightly."
            )


def _order(rows: Sequence[Row]) -> str:
    """Which is the fastest, and by how much."""
    best, *others = rows
    if not others:
        return ""
    parts = []
    for row in others:
        rounds = zip(best.images_per_second, row.images_per_second, strict=True)
        unsure = " (but not in every round)" if any(its >= ours for ours, its in rounds) else ""
        parts.append(f"{best.speed / row.speed:.2f} times {_name(row, rows)}{unsure}")
    return f"{_name(best, rows)} is the fastest: in images/s {'; '.join(parts)}. "


def _name(row: Row, rows: Sequence[Row]) -> str:
    """What tells a row from the others."""
    told = [getattr(row, name) for name in TOLD if len(_names(rows, name)) > 1]
    return " ".join(told) or row.network


def _limit(row: Row) -> str:
    """What limits the fastest."""
    if row.share is None:
        return ""
    said = (
        f"It reaches {100 * row.share:.0f} % of the matrix product: the same operations could run at most "
        f"{1 / row.share:.1f} times as fast here"
    )
    if row.share >= MOSTLY:
        return f"{said}, and to gain more takes fewer operations or a lower precision."
    return (
        f"{said}. Most of the time goes to moving numbers and starting operators: a larger batch or another engine may "
        "help, and --roofline shows where."
    )


def to_json(found: Benchmark) -> dict[str, Any]:
    """All that was measured, round by round: seconds, bytes, operations (a multiply-add is two)."""
    rows = []
    for row in found.rows:
        fields = asdict(row)
        times = fields.pop("latencies")
        rows.append({**fields, "latency": asdict(row.latency) if row.latency else None, "calls": len(times)})
    return {
        "machine": machine_name(found.device),
        "device": found.device.type,
        "torch": torch.__version__,
        "batch": found.batch,
        "rounds": found.rounds,
        "products": {each: {"size": size, "flops_per_second": rates} for each, (size, rates) in found.products.items()},
        "rows": rows,
        "left_out": [asdict(its) for its in found.left_out],
    }


def digits(value: float) -> str:
    """Three significant digits, down to thousandths."""
    return f"{value:,.{min(3, max(0, 2 - math.floor(math.log10(value))))}f}" if value > 0 else "0"


def _range(values: Sequence[float]) -> str:
    return f"{digits(median(values))} ({digits(min(values))}-{digits(max(values))})"


def _rate(flops: float) -> str:
    return f"{digits(flops / 1e12)} TFLOP/s" if flops >= 1e12 else f"{digits(flops / 1e9)} GFLOP/s"
