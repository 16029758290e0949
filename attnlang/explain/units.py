"""Numbers as people read them."""

from __future__ import annotations

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: int) -> str:
    """Write a number with separators."""
    return f"{number:,}"


def quantity(number: float, unit: str) -> str:
    """Write a number with three digits and a decimal prefix; words take none before them."""
    for size, prefix in _PREFIXES:
        if number >= 0.9995 * size:
            return (
                f"{number / size:.3g} {prefix}{unit}"
                if unit[0].isupper()
                else (f"{number / size:.3g} {_WORDS[prefix]} {unit}")
            )
    return f"{number:.3g} {unit}"


_WORDS = {"T": "trillion", "G": "billion", "M": "million", "k": "thousand"}


def duration(seconds: float) -> str:
    """Write a duration with three digits and the unit that suits it."""
    if seconds >= 999.5:
        return f"{seconds:.0f} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
