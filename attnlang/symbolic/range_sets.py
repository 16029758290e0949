"""Sets of ints as sorted, disjoint, half-open ranges.

Maps sets to sets. Invariant: in a set, each range begins after the one before it ends.
"""

from __future__ import annotations

RangeSet = tuple[tuple[int, int], ...]  # [begin, end)

_FAR = 2**62  # beyond every position
EVERYTHING: RangeSet = ((-_FAR, _FAR),)
NOTHING: RangeSet = ()


def at_least(bound: int) -> RangeSet:
    """Return the ints from `bound` on."""
    return ((max(bound, -_FAR), _FAR),) if bound < _FAR else NOTHING


def at_most(bound: int) -> RangeSet:
    """Return the ints up to `bound`, which is one of them."""
    return ((-_FAR, min(bound + 1, _FAR)),) if bound >= -_FAR else NOTHING


def unite(a: RangeSet, b: RangeSet) -> RangeSet:
    """Return what is in one of two sets."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(a + b):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return tuple(found)


def intersect(a: RangeSet, b: RangeSet) -> RangeSet:
    """Return what is in both of two sets."""
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        begin, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if begin < end:
            found.append((begin, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def complement(a: RangeSet) -> RangeSet:
    """Return what is not in a set."""
    edges = [-_FAR, *(edge for pair in a for edge in pair), _FAR]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((begin, end) for begin, end in pairs if begin < end)


def shift(a: RangeSet, by: int) -> RangeSet:
    """Return a set moved along, what lies far staying there."""
    return tuple(
        (begin if begin == -_FAR else begin + by, end if end == _FAR else end + by)
        for begin, end in a
    )


def length(a: RangeSet) -> int:
    """Return how many ints a set holds."""
    return sum(end - begin for begin, end in a)
