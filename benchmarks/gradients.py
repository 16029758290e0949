"""The worst gradient error of each variant, on each target and in each dtype, as a table.

    pytest -m 'slow or not slow' tests/test_gallery_gradients*.py --gradient-errors FILE
    python benchmarks/gradients.py [--json FILE] [--variants]

An error is against float64 autograd of the reference, of the largest value of its gradient (of 1,
where that is less); behind it stands which gradient, of q, k, v or a parameter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results" / "gradients.json"

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--variants", action="store_true", help="a line a variant")
    args = parser.parse_args()
    found: Record = json.loads(args.json.read_text(encoding="utf-8"))
    first, *others = rows(found, variants=args.variants)
    for line in (first, ["---"] * len(first), *others):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
