"""How many entries each vector of a variant has, once the head dims of a call are known.

Maps vector expressions to widths: as expressions over `D` and `DV` (`width_expr`), or as numbers,
checked (`measure`). Invariant: what `measure` returns without raising, the generated programs and
the reference compute without leaving a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from attnlang.ir.nodes import (
    INT,
    Binary,
    BinaryOp,
    Dot,
    Expr,
    L2Norm,
    RmsNorm,
    Rope,
    Size,
    Slice,
    Variant,
    Vector,
    VectorName,
)
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import children, walk
from attnlang.symbolic.evaluate import evaluate


class WidthError(ValueError):
    """A vector of the spec cannot be, for the head dims of a call.

    `argument` is the argument of the call that does not fit, `expected` what would.
    """

    def __init__(self, argument: str, expected: str, found: str) -> None:
        super().__init__(f"`{argument}`: expected {expected}, found {found}")
        self.argument, self.expected, self.found = argument, expected, found


@dataclass(frozen=True, slots=True)
class Widths:
    """The last dimensions: of the call's q and k, of its v, of q' and k', of acc, of out."""

    head: int
    value: int
    product: int
    acc: int
    out: int

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes `D` and `DV`."""
        return {"D": self.head, "DV": self.value}


def width_expr(variant: Variant, root: Expr) -> Expr | None:
    """Return a vector's width over `D` and `DV`; None where only `d` makes it a vector."""
    found: dict[int, Expr | None] = {}
    for expr in walk(root):
        match expr:
            case Vector(name=VectorName.Q | VectorName.K):
                found[id(expr)] = Size("D", span=expr.span)
            case Vector(name=VectorName.V):
                found[id(expr)] = Size("DV", span=expr.span)
            case Vector():
                found[id(expr)] = width_expr(variant, variant.v) or Size("DV", span=expr.span)
            case Slice(start=start, stop=stop):
                found[id(expr)] = Binary(BinaryOp.SUB, stop, start, INT, span=expr.span)
            case RmsNorm() | L2Norm() | Rope():
                found[id(expr)] = found[id(expr.operand)]
            case _:
                parts = (found[id(c)] for c in children(expr) if c.type.vector)
                found[id(expr)] = next((p for p in parts if p is not None), None)
    return found[id(root)]


def fixed_int(expr: Expr, sizes: Mapping[str, int]) -> int:
    """Return the value of an int over `D`, `DV` and constants."""

    def leaf(node: object) -> int:
        assert isinstance(node, Size), node
        return sizes[node.name]

    def read(tensor: str, indices: object) -> int:
        raise AssertionError(f"a read of {tensor} in a fixed int")

    return int(evaluate(expr, leaf, read).item())


def width_of(variant: Variant, root: Expr, sizes: Mapping[str, int]) -> int | None:
    """Return a vector's width as a number."""
    expr = width_expr(variant, root)
    return None if expr is None else fixed_int(expr, sizes)


def value_dim(variant: Variant, head: int) -> int:
    """Return DV where the call passes no v."""
    found = width_of(variant, variant.v, {"D": head, "DV": head})
    return head if found is None else found


def measure(variant: Variant, head: int, value: int) -> Widths:
    """Return the widths of a call. Raises WidthError where a vector does not fit."""
    sizes = {"D": head, "DV": value}
    found = {n: width_of(variant, e, sizes) for n, e in (("q", variant.q), ("k", variant.k))}
    product = next((w for w in found.values() if w is not None), head)
    if any(w not in (None, product) for w in found.values()):
        raise WidthError("q", "a transformed q as wide as the transformed k", _words(found))
    acc = width_of(variant, variant.v, sizes) or value
    out = width_of(variant, variant.out, sizes) or acc
    for argument, width in (("q", product), ("v", acc), ("v", out)):
        if width < 1:
            raise WidthError(argument, "a transform with an entry or more", f"a width of {width}")
    checker = _Checker(variant, sizes)
    weights, roots = variant.weights, [(variant.q, product), (variant.k, product)]
    roots += [(variant.v, acc), (variant.out, out)]
    scalars = (variant.score, variant.mask, weights.softmax, weights.sink, weights.factor)
    for dot in _dots(e for e in (*scalars, *(r for r, _ in roots)) if e is not None):
        roots.append((dot, 0))
    for root, width in roots:
        checker.check(root, width)
    return Widths(head, value, product, acc, out)


def _dots(roots: Iterable[Expr]) -> tuple[Expr, ...]:
    return tuple(e for e in walk(*roots) if isinstance(e, Dot))


def _words(found: Mapping[str, int | None]) -> str:
    return ", ".join(f"{n}: {w}" for n, w in found.items() if w is not None)


class _Checker:
    def __init__(self, variant: Variant, sizes: Mapping[str, int]) -> None:
        self.variant, self.sizes = variant, sizes
        self._seen: set[tuple[int, int]] = set()

    def check(self, root: Expr, width: int) -> None:
        """Check that everything below a vector of `width` entries fits."""
        stack = [(root, width)]
        while stack:
            expr, wide = stack.pop()
            if (id(expr), wide) in self._seen:
                continue
            self._seen.add((id(expr), wide))
            if expr.type.vector:
                own = width_of(self.variant, expr, self.sizes)
                if own not in (None, wide):
                    self._refuse(expr, f"{wide} entries", f"{own}")
            match expr:
                case Slice(operand=operand):
                    stack.append((operand, self._slice(expr, wide)))
                    continue
                case Dot(left=left, right=right):
                    wide = self.dot_width(left, right)
                case Rope():
                    self._rope(expr, wide)
                case _:
                    pass
            stack += [(c, wide) for c in children(expr)]

    def dot_width(self, left: Expr, right: Expr) -> int:
        found = (width_of(self.variant, e, self.sizes) for e in (left, right))
        return next((w for w in found if w is not None), self.sizes["D"])

    def _slice(self, expr: Slice, wide: int) -> int:
        whole = width_of(self.variant, expr.operand, self.sizes)
        whole = wide if whole is None else whole
        start, stop = (fixed_int(e, self.sizes) for e in (expr.start, expr.stop))
        if not 0 <= start < stop <= whole:
            self._refuse(expr, f"entries {start} to {stop} within the vector", f"{whole} of them")
        return whole

    def _rope(self, expr: Rope, wide: int) -> None:
        start = fixed_int(expr.start, self.sizes)
        dims = wide if expr.dims is None else fixed_int(expr.dims, self.sizes)
        if dims % 2 or dims < 2 or start < 0 or start + dims > wide:
            expected = f"an even number of entries to turn from {start} on within {wide}"
            self._refuse(expr, expected, f"{dims}")

    def _refuse(self, expr: Expr, expected: str, found: str) -> None:
        names = {e.name for e in walk(expr) if isinstance(e, Vector)}
        argument = next((n.value for n in VectorName if n in names and n != VectorName.ACC), "v")
        raise WidthError(argument, f"{expected} in `{print_expr(expr)}`", found)


def short_freqs(variant: Variant, widths: Widths, extents: Mapping[str, int]) -> tuple[str, int]:
    """Return a tensor of frequencies that has too few, and how many are read; or ("", 0).

    `extents` are the lengths of the tensors that were passed.
    """
    if not extents:
        return "", 0
    roots = (variant.q, variant.k, variant.v, variant.out, variant.score, variant.mask)
    for expr in walk(*roots):
        if isinstance(expr, Rope) and expr.freqs is not None:
            dims = widths.head if expr.dims is None else fixed_int(expr.dims, widths.sizes)
            if expr.dims is None:
                dims = width_of(variant, expr, widths.sizes) or dims
            if extents.get(expr.freqs, dims) < dims // 2:
                return expr.freqs, dims // 2
    return "", 0
