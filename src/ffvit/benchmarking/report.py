"""The tables of a benchmark, and sentences that say what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffvit.benchmarking.measure import Benchmark, Row
from ffvit.profiling.hardware_peak import machine_name
from ffvit.terminal import build_table, digits, percent

COMPUTE_BOUND = 0.6
"""From this share of the machine's matrix product on, most of the time is arithmetic."""

TITLES = {"predict": "Prediction", "train": "Training"}

KEYS = "network", "engine", "precision"
"""What distinguishes rows."""


def print_benchmark(benchmark: Benchmark, console: Console) -> None:
    """Print the tables, what was skipped, and what it all means."""
    console.print(f"{machine_name(benchmark.device)}; torch {torch.__version__}", highlight=False, soft_wrap=True)
    for work in TITLES:
        for rows in _split_tables([row for row in benchmark.rows if row.work == work]):
            title = [names[0] for names in (_names(rows, key) for key in KEYS) if len(names) == 1]
            if len(_names(rows, "network")) == 1:
                title.append(f"{digits(rows[0].flops / 1e9)} GFLOP per image")
            title += [f"batch of {benchmark.batch}", f"{benchmark.rounds} rounds"]
            console.print(Text.assemble((f"\n{TITLES[work]}: ", "bold"), ", ".join(title)))
            console.print(_table(benchmark, rows), highlight=False)
    console.print()
    for pair in benchmark.skipped:
        console.print(f"not measured: {pair.engine}, {pair.precision}: {pair.reason}", highlight=False, markup=False)
    for sentence in sentences(benchmark):
        console.print(sentence, highlight=False, markup=False)


def _split_tables(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each table: where networks and something else differ, one for each precision, or for each network."""
    several = [key for key in KEYS if len(_names(rows, key)) > 1]
    if "network" not in several or len(several) == 1:
        return [list(rows)] if rows else []
    by = "network" if "engine" in several else "precision"
    return [[row for row in rows if getattr(row, by) == name] for name in _names(rows, by)]


def _names(rows: Sequence[Row], key: str) -> list[str]:
    return list(dict.fromkeys(getattr(row, key) for row in rows))


def _table(benchmark: Benchmark, rows: Sequence[Row]) -> Table:
    keys = [key for key in KEYS if len(_names(rows, key)) > 1]  # what all rows share is in the title
    evaluated, networks = any(row.agreement for row in rows), "network" in keys
    latency = ("p50\nms", "p95\nms") if rows[0].work == "predict" else ()
    headings = [*keys, "images/s", *latency, "peak\nMiB", *(["GFLOP per\nimage"] if networks else []), "% of\nmatmul"]
    headings += ["top-1", "predictions\nchanged"] if evaluated else []
    cells = [
        [
            *(getattr(row, key) for key in keys),
            with_range(row.images_per_second),
            *_latency(row),
            "-" if row.peak_memory is None else f"{row.peak_memory / 2**20:,.0f}",
            *([digits(row.flops / 1e9)] if networks else []),
            _percent(benchmark.utilization(row)),
            *(_agreement(row) if evaluated else ()),
        ]
        for row in rows
    ]
    return build_table(headings, cells, words=range(len(keys)), gap=1 if evaluated else 2)


def _latency(row: Row) -> tuple[str, ...]:
    latency = row.latency
    return (digits(1e3 * latency.median), digits(1e3 * latency.percentile_95)) if latency else ()


def _agreement(row: Row) -> tuple[str, str]:
    agreement = row.agreement
    return (percent(agreement.top1), f"{agreement.differ:,} of {agreement.images:,}") if agreement else ("", "")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def sentences(benchmark: Benchmark) -> Iterator[str]:
    """What the tables mean, for someone who reads nothing else."""
    for precision, matmul in benchmark.peak.matmuls.items():
        yield (
            f"100 % is the best that one large matrix product reached on this machine in {precision}: "
            f"{_rate(matmul.rate)} ({matmul.size} x {matmul.size})."
        )
    for work in TITLES:
        rows = sorted((row for row in benchmark.rows if row.work == work), key=lambda row: -row.speed)
        if rows:
            yield f"{TITLES[work]}: {_ranking(rows)}{_limit(benchmark.utilization(rows[0]))}".rstrip(" :")
    for row in benchmark.rows:
        if row.agreement and row.precision == "int8":
            yield (
                f"In int8 on {row.engine}, {row.network} predicts {row.agreement.differ:,} of {row.agreement.images:,} "
                f"test images differently than in fp32; its top-1 accuracy is {percent(row.agreement.top1)}."
            )


def _ranking(rows: Sequence[Row]) -> str:
    """Which is the fastest, and by how much."""
    best, *slower = rows
    if not slower:
        return ""
    ratios = []
    for row in slower:
        rounds = zip(best.images_per_second, row.images_per_second, strict=True)
        unsure = " (but not in every round)" if any(theirs >= ours for ours, theirs in rounds) else ""
        ratios.append(f"{best.speed / row.speed:.2f} times {_name(row, rows)}{unsure}")
    return f"{_name(best, rows)} is the fastest: in images/s {'; '.join(ratios)}. "


def _name(row: Row, rows: Sequence[Row]) -> str:
    """What distinguishes a row from the others."""
    return " ".join(getattr(row, key) for key in KEYS if len(_names(rows, key)) > 1) or row.network


def _limit(utilization: float | None) -> str:
    """What limits the fastest."""
    if utilization is None:
        return ""
    reached = (
        f"It reaches {100 * utilization:.0f} % of the matrix product: the same FLOPs could run at most "
        f"{1 / utilization:.1f} times as fast here"
    )
    if utilization >= COMPUTE_BOUND:
        return f"{reached}; only fewer FLOPs or a lower precision would gain more."
    return (
        f"{reached}. Most of the time goes to moving numbers and starting operators: a larger batch or another engine may "
        "help, and --roofline shows where."
    )


def to_json(benchmark: Benchmark) -> dict[str, Any]:
    """All that was measured, round by round: seconds, bytes, FLOPs (a multiply-add is two)."""
    rows = []
    for row in benchmark.rows:
        fields = asdict(row)
        calls = len(fields.pop("latencies"))
        latency = asdict(row.latency) if row.latency else None
        rows.append({**fields, "utilization": benchmark.utilization(row), "latency": latency, "calls": calls})
    return {
        "machine": machine_name(benchmark.device),
        "device": benchmark.device.type,
        "torch": torch.__version__,
        "batch": benchmark.batch,
        "rounds": benchmark.rounds,
        "matmuls": {precision: asdict(matmul) for precision, matmul in benchmark.peak.matmuls.items()},
        "rows": rows,
        "skipped": [asdict(pair) for pair in benchmark.skipped],
    }


def with_range(values: Sequence[float]) -> str:
    """The median, the lowest and the highest."""
    return f"{digits(median(values))} ({digits(min(values))}-{digits(max(values))})"


def _rate(flops: float) -> str:
    return f"{digits(flops / 1e12)} TFLOP/s" if flops >= 1e12 else f"{digits(flops / 1e9)} GFLOP/s"
