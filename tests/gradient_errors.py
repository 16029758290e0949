"""The worst gradient errors that tests saw, by variant: a file that grows as they are run.

Tests note what they compared (`note`, with pytest's `record_property`); `--gradient-errors FILE`
adds what a run noted to the file, where the worst of its own runs of a variant, on a target and in
a dtype, takes the place of what was there. `benchmarks/gradients.py` shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from gallery_gradients import Errors

_PROPERTY = "gradient error"
RecordProperty = Callable[[str, object], None]


def note(record_property: RecordProperty, name: str, where: str, errors: Errors) -> None:
    """Note the errors of a variant; `where`: a target and a dtype."""
    record_property(_PROPERTY, json.dumps({"variant": name, "where": where, **asdict(errors)}))


def write(path: Path, properties: Iterable[tuple[str, object]]) -> None:
    """Add what tests noted to a file: variant -> where -> the worst."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for name, value in properties:
        if name != _PROPERTY:
            continue
        noted = json.loads(str(value))
        of_variant = found.setdefault(noted.pop("variant"), {})
        where = noted.pop("where")
        noted = {"by": noted["by"], **{n: float(f"{noted[n]:.3g}") for n in ("error", "allowed")}}
        if where not in of_variant or of_variant[where]["error"] < noted["error"]:
            of_variant[where] = noted
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    whole = {n: before.get(n, {}) | found.get(n, {}) for n in sorted({*before, *found})}
    path.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", encoding="utf-8")
