"""From a name that nothing has to the one that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

_LONGEST = 60


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like `name`, or None if none is close.

    Case and `_` count little: `Tanh`, `kvidx` find `tanh`, `kv_idx`. Ties go to the first in
    alphabetical order, so that a message never depends on the order of a set.
    """
    if len(name) > _LONGEST:
        return None
    best: tuple[float, str] | None = None
    plain = _plain(name)
    for candidate in sorted(set(candidates)):
        if candidate == name:
            continue
        likeness = _likeness(plain, _plain(candidate))
        if likeness >= _enough(plain) and (best is None or likeness > best[0]):
            best = (likeness, candidate)
    return None if best is None else best[1]


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _enough(plain: str) -> float:
    """Return how alike two names must be: short ones share a third of their letters by chance."""
    return 0.75 if len(plain) <= 4 else 0.67


def _likeness(a: str, b: str) -> float:
    if a == b:
        return 1.0
    if sorted(a) == sorted(b) and len(a) > 2:
        return 0.9
    if min(len(a), len(b)) < 3:
        return 0.0
    if abs(len(a) - len(b)) > max(len(a), len(b)) // 2:
        return 0.0
    return SequenceMatcher(None, a, b, autojunk=False).ratio()
