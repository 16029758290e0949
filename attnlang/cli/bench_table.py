"""The table of `attnlang bench` and `benchmarks/cpu.py`: recorded cases, a row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from attnlang.bench.case import EAGER, FLEX, OURS, PEAK, PRODUCT, READ, SDPA
from attnlang.bench.machine import BUSY_SHARE

_BOUNDS = {PEAK: "peak", READ: "reading", PRODUCT: "matmul"}
_OTHERS = (SDPA, FLEX, EAGER, PRODUCT, PEAK, READ, OURS)


def print_table(cases: Mapping[str, Any], *, width: int | None = None) -> None:
    """Print recorded cases: our time, our rate, and how many times the others' rate that is."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("case")
    for name in ("ms", "quartiles", "GFLOP/s", "of the bound", "x SDPA", "x Flex", "x eager"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("others, and targets")
    for name, case in cases.items():
        table.add_row(*_row(name, case))
    # A file or a pipe has no width of its own: cells stay whole.
    console = Console(width=width)
    if not console.is_terminal and width is None:
        console = Console(width=200)
    console.print(table)


def _row(name: str, case: Mapping[str, Any]) -> tuple[str, ...]:
    contenders = case["contenders"]
    ours = contenders[OURS]
    times = ours[case["clock"]]
    unit = "" if case["clock"] == "cpu" else " GB/s"
    quartiles = f"{1e3 * times['low']:.4g}-{1e3 * times['high']:.4g}"
    bound = next((b for b in _BOUNDS if b in contenders), None)
    share = "" if bound is None else f"{100 * ours['rate'] / contenders[bound]['rate']:.0f}%"
    return (
        name,
        f"{1e3 * times['median']:.4g}",
        quartiles,
        f"{ours['rate'] / 1e9:.1f}{unit}",
        share,
        *(_ratio(contenders, peer) for peer in (SDPA, FLEX, EAGER)),
        _notes(case),
    )


def _ratio(contenders: Mapping[str, Any], peer: str) -> str:
    return f"{contenders[peer]['ratio']:.2f}" if peer in contenders else "-"


def _notes(case: Mapping[str, Any]) -> str:
    beside = [n for n in case["contenders"] if n not in _OTHERS]
    notes = [f"{case['contenders'][n]['ratio']:.2f} x {n}" for n in beside]
    if case["targets"]:
        wanted = " or ".join(f"{t['at_least']:g} x {t['than']}" for t in case["targets"])
        met = {True: "met", False: "NOT met", None: "not measured"}[case["met"]]
        notes.append(f"target {wanted}: {met}")
    if case["others"] is not None and case["others"] > BUSY_SHARE:
        notes.append(f"busy: others took {100 * case['others']:.0f}%")
    return ", ".join(notes)
