"""What the compiler looked for in a variant, and why where it found nothing.

Maps a lowered variant and its tiles to findings, each with the reason. Invariant: a finding says
what is so in this call; none is a promise about another.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnlang.explain.explanation import Finding, Tiles
from attnlang.ir.nodes import Const, Expr
from attnlang.ir.printer import print_expr
from attnlang.passes.lowered import Lowered
from attnlang.plan.terms import Term


def findings(lowered: Lowered, terms: Sequence[Term], tiles: Tiles | None) -> tuple[Finding, ...]:
    """Return the findings, the most rewarding first."""
    return (
        _skipping(lowered.mask, tiles),
        _unmasked(lowered.mask, tiles),
        _hidden_keys(lowered),
        _hoisting(terms),
        _fewer_operations(lowered),
    )


def _skipping(mask: Expr, tiles: Tiles | None) -> Finding:
    name = "tiles are skipped"
    if tiles is None:
        return Finding(name, False, "the mask reads scores: no tile is known before they are")
    if tiles.empty.tiles:
        return Finding(name, True, f"the mask hides {tiles.share(tiles.empty):.1%} of them whole")
    if isinstance(mask, Const):
        return Finding(name, False, "there is no mask")
    if tiles.unknown:
        return Finding(name, False, f"the values of {', '.join(tiles.unknown)} were not looked at")
    return Finding(name, False, "none is proved to be hidden whole")


def _unmasked(mask: Expr, tiles: Tiles | None) -> Finding:
    name = "tiles need no mask"
    if tiles is None:
        return Finding(name, False, "the mask reads scores: it is asked for each element")
    if isinstance(mask, Const):
        return Finding(name, True, "there is no mask")
    if tiles.full.tiles:
        return Finding(name, True, f"it holds for all of {tiles.share(tiles.full):.1%} of them")
    return Finding(name, False, "it is proved to hold for all elements of none")


def _hidden_keys(lowered: Lowered) -> Finding:
    name = "hidden keys are never read"
    if lowered.column_mask is None:
        return Finding(name, False, "each part of the mask reads the query, or there is none")
    return Finding(name, True, f"`{print_expr(lowered.column_mask)}` reads no query")


def _hoisting(terms: Sequence[Term]) -> Finding:
    name = "work leaves the inner loop"
    if not terms:
        return Finding(name, False, "no term is coarser than the element")
    return Finding(name, True, f"{len(terms)} terms: see the loops")


def _fewer_operations(lowered: Lowered) -> Finding:
    before, after = lowered.operations
    name = "an element costs less than written"
    if after < before:
        return Finding(name, True, f"{after} operations of {before}")
    return Finding(name, False, f"{before} operations, all of which are needed")
