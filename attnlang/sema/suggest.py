"""The nearest known name to a misspelt one, by Damerau-Levenshtein distance."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 40


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was probably meant to be, or None."""
    if len(name) > _LONGEST:
        return None
    allowed = 1 if len(name) <= 4 else 2 if len(name) <= 8 else 3
    best: tuple[int, str] | None = None
    for candidate in known:
        if candidate == name or abs(len(candidate) - len(name)) > allowed:
            continue
        if candidate.lower() == name.lower():
            return candidate
        if len(name) <= 2 or len(candidate) <= 2:
            continue
        distance = _distance(name, candidate)
        if distance <= allowed and (best is None or (distance, candidate) < best):
            best = (distance, candidate)
    return best[1] if best else None


def _distance(a: str, b: str) -> int:
    """Count the insertions, deletions, changes and swaps of neighbours from `a` to `b`."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        older, before = before, row
        row = [i + 1]
        for j, y in enumerate(b):
            cost = min(before[j + 1] + 1, row[j] + 1, before[j] + (x != y))
            if i and j and x == b[j - 1] and a[i - 1] == y:
                cost = min(cost, older[j - 1] + 1)
            row.append(cost)
    return row[-1]
