"""What serving costs on the CPU: pages, one-byte pages, shared prefixes, plans.

    python benchmarks/serving.py [--case 'decode/*' ...] [--seconds 5] [--json out.json] [--again]
    python benchmarks/serving.py --list | --build

The cases of `serving_cases`, in pieces: what the file already holds is not measured again. The
works of a case take turns, so their ratios hold on a machine that drifts. Let nothing else run.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from attnlang.bench.clock import Timing, interleave, prepare_process

RESULTS = Path(__file__).resolve().parent / "results" / "serving.json"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, for each case")
    parser.add_argument("--until", type=float, default=70.0, help="start no case after SECONDS")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="measure what the file has, too")
    parser.add_argument("--build", action="store_true", help="build kernels, measure nothing")
    parser.add_argument("--list", action="store_true", help="name the cases")
    return parser.parse_args()


def _as_json(timings: dict[str, Timing], facts: dict[str, object]) -> dict[str, Any]:
    first = next(iter(timings.values())).wall.median
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "works": {
            name: {"ratio": t.wall.median / first, **asdict(t)} for name, t in timings.items()
        },
        **facts,
    }


def main() -> None:
    """Measure some cases and add them to the file."""
    start = time.monotonic()
    args = _arguments()
    prepare_process()
    import torch
    from serving_cases import CASES

    from attnlang.bench.machine import BUSY_SHARE, Watch, this_machine
    from attnlang.bench.record import read_record, record_text

    machine = this_machine()
    done = read_record(args.json, machine)
    names = [n for n in CASES if any(fnmatch(n, p) for p in args.case or ["*"])]
    if not names:
        sys.exit(f"no case matches {', '.join(args.case)}; --list names them")
    if args.list:
        print("\n".join(f"{n}{'  (measured)' if n in done else ''}" for n in names))
        return
    left = [n for n in names if args.again or args.build or n not in done]
    for count, name in enumerate(left):
        if time.monotonic() - start > args.until:
            print(f"{len(left) - count} cases are left: run it again")
            return
        case = CASES[name]()
        if args.build:
            for work in case.works.values():
                work()
            print(f"{name}: built", flush=True)
            continue
        watch = Watch()
        timings = interleave(case.works, torch.get_num_threads(), args.seconds)
        others = watch.others()
        done[name] = _as_json(timings, {"others": others, **case.facts})
        args.json.write_text(record_text(machine, done), encoding="utf-8")
        base = next(iter(timings.values())).wall.median
        shown = (f"{n} {1e3 * t.wall.median:.4g} ms ({t.wall.median / base:.3f})"
                 for n, t in timings.items())  # fmt: skip
        print(f"{name}: {', '.join(shown)} {case.facts or ''}", flush=True)
        if others is not None and others > BUSY_SHARE:
            print(f"  warning: other processes took {100 * others:.0f}% of the machine", flush=True)


if __name__ == "__main__":
    main()
