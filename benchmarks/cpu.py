"""How fast the CPU kernels are, beside SDPA, FlexAttention, eager torch and the machine's limits.

    python benchmarks/cpu.py [--case 'decode/*' ...] [--seconds 6] [--json out.json] [--again]
    python benchmarks/cpu.py --list | --build | --show | --plot out.png
    python benchmarks/cpu.py --isa portable         # the same for lowered flags, beside SDPA's

The cases of `cpu_cases`, in pieces: what the file already holds is not measured again. Contenders
take turns, so the ratios hold on a machine that drifts; arithmetic is timed in CPU time, reading
memory on the wall. Let nothing else run. `--build` only builds and compiles, for a quiet run after.
`--isa` builds kernels for fewer instructions and lets torch's own kernels use no more; the products
that SDPA calls are MKL's, which choose for themselves (on AMD nothing keeps them from AVX2).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from attnlang.bench.clock import prepare_process

RESULTS = Path(__file__).resolve().parent / "results"
CAPABILITIES = {"portable": "default", "x86-64-v3": "avx2"}  # torch's names for the instructions


def _matching(patterns: list[str], names: Mapping[str, object]) -> list[str]:
    wanted = patterns or ["*"]
    found = [n for n in names if any(fnmatch(n, p) for p in wanted)]
    if not found:
        sys.exit(f"no case matches {', '.join(wanted)}; --list names them")
    return found


def _commit() -> str:
    """Return the commit that is measured; a `+` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=10"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _show(cases: Mapping[str, Any], args: argparse.Namespace) -> None:
    from attnlang.cli.bench_table import print_table

    shown = {n: cases[n] for n in _matching(args.case, cases)}
    print_table(shown)
    known = [case["met"] for case in shown.values() if case["met"] is not None]
    print(f"{sum(known)} of {len(known)} targets met")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring, for each case")
    parser.add_argument("--until", type=float, default=80.0, help="start no case after SECONDS")
    parser.add_argument("--json", type=Path, help="default: results/cpu.json")
    parser.add_argument("--isa", choices=CAPABILITIES, help="for a CPU with fewer instructions")
    parser.add_argument("--again", action="store_true", help="measure what the file has, too")
    parser.add_argument("--build", action="store_true", help="build kernels, measure nothing")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--show", action="store_true", help="print the file")
    parser.add_argument("--plot", type=Path, help="draw the file")
    args = parser.parse_args()
    if args.json is None:
        args.json = RESULTS / (f"cpu-{args.isa}.json" if args.isa else "cpu.json")
    return args


def main() -> None:
    """Measure some cases and add them to the file."""
    start = time.monotonic()
    args = _arguments()
    if args.isa is not None:  # before torch is imported
        os.environ |= {"ATTNLANG_CPU": args.isa, "ATEN_CPU_CAPABILITY": CAPABILITIES[args.isa]}
    prepare_process()
    from cpu_cases import all_cases

    from attnlang.bench.case import OURS
    from attnlang.bench.contest import prepare_case, run_case
    from attnlang.bench.machine import BUSY_SHARE, this_machine
    from attnlang.bench.plot import draw
    from attnlang.bench.record import as_json, read_record, record_text

    machine, cases = this_machine(), all_cases()
    done = read_record(args.json, machine)
    if args.show:
        _show(done, args)
        return
    if args.plot is not None:
        shown = {n: done[n] for n in _matching(args.case, done)}
        draw(machine.cpu, shown, args.plot, args.plot.suffix)
        return
    names = _matching(args.case, cases)
    if args.list:
        print("\n".join(f"{n}{'  (measured)' if n in done else ''}" for n in names))
        return
    left = [n for n in names if args.again or n not in done]
    for count, name in enumerate(left):
        if time.monotonic() - start > args.until:
            print(f"{len(left) - count} cases are left: run it again")
            return
        if args.build:
            prepare_case(cases[name]())
            print(f"{name}: built", flush=True)
            continue
        result = run_case(cases[name](), args.seconds, lambda _: None)
        done[name] = as_json(result) | {"commit": _commit()}
        args.json.write_text(record_text(machine, done), encoding="utf-8")
        met = {True: "met", False: "NOT met", None: ""}[result.met]
        ratios = ", ".join(
            f"{result.ratio(n):.2f} x {n}" for n in result.entries if n != "attnlang"
        )
        print(f"{name}: {1e3 * result.seconds(OURS):.4g} ms, {ratios}  {met}", flush=True)
        if result.others is not None and result.others > BUSY_SHARE:
            taken = f"{100 * result.others:.0f}%"
            print(f"  warning: other processes took {taken} of the machine", flush=True)


if __name__ == "__main__":
    main()
