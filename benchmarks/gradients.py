"""The worst gradient error of each variant, on each target and in each dtype, as a table.

    pytest -m 'slow or not slow' tests/test_gallery_gradients*.py --gradient-errors FILE
    python benchmarks/gradients.py [--json FILE] [--variants]
    python benchmarks/gradients.py --measure bf16 f16 [--until 100]

The tests differentiate some variants in some dtypes; `--measure` adds what the file lacks of the
CPU, a call of one shape each: call it until nothing is left. An
error is against float64 autograd of the reference, of the largest value of its gradient (of 1,
where that is less); behind it stands which gradient, of q, k, v or a parameter.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gradients.json"

Record = Mapping[str, Mapping[str, Mapping[str, float | str]]]


def rows(found: Record, *, variants: bool) -> list[tuple[str, ...]]:
    """Return the table: a line a variant, or one for the worst variant of each column."""
    places = sorted({where for errors in found.values() for where in errors})
    if variants:
        cells = [(n, *(_cell(errors.get(p)) for p in places)) for n, errors in found.items()]
        return [("variant", *places), *cells]
    lines = [("where", "variants", "worst error", "of it allowed", "variant, gradient")]
    for place in places:
        of_place = {n: errors[place] for n, errors in found.items() if place in errors}
        name, worst = max(of_place.items(), key=lambda item: item[1]["error"])
        share = f"{float(worst['error']) / float(worst['allowed']):.0%}"
        told = f"{name}, {worst['by']}"
        lines.append((place, str(len(of_place)), f"{worst['error']:.1e}", share, told))
    return lines


def _cell(errors: Mapping[str, float | str] | None) -> str:
    return "" if errors is None else f"{errors['error']:.1e} {errors['by']}"


def measure(path: Path, dtypes: list[str], until: float) -> None:
    """Add what a file lacks of the CPU's gradients; an error that is not allowed ends it."""
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from gallery_gradients import check
    from gradient_errors import note, write
    from support import PARAMS, Sizes

    sizes, kinds = Sizes(1, 6, 2, 131, 131, 64, 64), {"bf16": torch.bfloat16, "f16": torch.float16}
    known, left = json.loads(path.read_text(encoding="utf-8")), 0
    for dtype in dtypes:
        for name in sorted(PARAMS):
            where = f"cpu {dtype}"
            if where in known.get(name, {}):
                continue
            if time.monotonic() - _START > until:
                left += 1
                continue
            found: list[tuple[str, object]] = []
            errors = check(name, sizes, kinds[dtype])
            note(lambda *noted, found=found: found.append(noted), name, where, errors)
            write(path, found)
    print(f"{left} are left", file=sys.stderr)


_START = time.monotonic()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--variants", action="store_true", help="a line a variant")
    parser.add_argument("--measure", nargs="+", choices=("bf16", "f16"), metavar="DTYPE")
    parser.add_argument("--until", type=float, default=100.0, help="seconds of measuring")
    args = parser.parse_args()
    if args.measure:
        measure(args.json, args.measure, args.until)
    found: Record = json.loads(args.json.read_text(encoding="utf-8"))
    first, *others = rows(found, variants=args.variants)
    for line in (first, ["---"] * len(first), *others):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
