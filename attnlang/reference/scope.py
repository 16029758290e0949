"""A guard context: a domain of elements, what is provided there, and the values known so far.

A guard (`and`, `or`, `if`) evaluates its operands in the scope cut down to the elements that it
selects, so a read under a false guard is not made, and its NaN or infinite derivative never meets
a gradient. Only where a condition reads `d` are both branches computed for all entries of the
vector; there the entries that were not selected are replaced by 1 before every operation (`lanes`).

Invariant: a `strict` scope raises at an index out of range or an integer division by zero; one that
is not clamps the index and divides to 0, as kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attnlang.ir.nodes import (
    Dot,
    Expr,
    L2Norm,
    Logic,
    Raw,
    RmsNorm,
    Rope,
    Select,
    Slice,
    VectorName,
)
from attnlang.ir.traverse import children
from attnlang.reference.domain import Domain
from attnlang.reference.inputs import Inputs


@dataclass(frozen=True, slots=True, eq=False)
class Provided:
    """What the stage that evaluates an expression provides beside the call's inputs.

    `vectors` are [B, HQ or HKV, R or 1, KV or 1, width], as the call passed them (`acc`: as
    accumulated).
    """

    box: Domain  # all elements of the chunk of rows
    rows: Tensor  # int64 [R], the query row of each place in the chunk
    vectors: dict[VectorName, Tensor]
    qk: Tensor | None = None  # [B, HQ, R, KV]
    row_sum: Tensor | None = None  # [B, HQ, R, 1]
    lse: Tensor | None = None  # [B, HQ, R, 1]


@dataclass(slots=True, eq=False)
class Scope:
    """A guard context. `rule` computes an expression whose operands are known."""

    rule: Callable[[Expr, Scope], Tensor]
    inputs: Inputs
    provided: Provided
    domain: Domain
    strict: bool = True
    width: int = 0  # of the vectors: the range of `d`
    lanes: Tensor | None = None  # the selected entries of a vector; None: all
    parent: Scope | None = None  # evaluated on more elements: its values hold here
    memo: dict[int, Tensor] = field(default_factory=dict)

    def evaluate(self, root: Expr) -> Tensor:
        """Return the value of an expression over the domain."""
        stack = [root]
        while stack:
            expr = stack[-1]
            if self._known(expr) is None:
                pending = [c for c in self.operands(expr) if self._known(c) is None]
                if pending:
                    stack.extend(reversed(pending))
                    continue
                self.memo[id(expr)] = self.rule(expr, self)
            stack.pop()
        return self.memo[id(root)]

    def where(self, mask: Tensor) -> Scope:
        """Return the scope of the elements where `mask` is true."""
        domain = self.domain.where(mask)
        if domain is self.domain:
            return self
        lanes = None if self.lanes is None else domain.select(self.lanes, vector=True)
        return replace(self, domain=domain, lanes=lanes, parent=self, memo={})

    def masked(self, expr: Expr, mask: Tensor, fill: float | bool) -> Tensor:
        """Evaluate `expr` where `mask` is true and nowhere else; elsewhere the value is `fill`."""
        scope = self.where(mask)
        if scope is self:
            return self.evaluate(expr)
        return scope.domain.spread(scope.evaluate(expr), fill, vector=expr.type.vector)

    def child(self, lanes: Tensor | None = None) -> Scope:
        """Return a scope of the same elements, in which nothing is known that isn't known here."""
        return replace(self, lanes=self.lanes if lanes is None else lanes, parent=self, memo={})

    def whole(self, width: int) -> Scope:
        """Return the scope for whole vectors of `width` entries, none of them guarded."""
        if width == self.width and self.lanes is None:
            return self
        return replace(self, width=width, lanes=None, parent=None, memo={})

    def over(self, domain: Domain, width: int) -> Scope:
        """Return the scope for whole vectors over another domain of the same chunk."""
        return replace(self, domain=domain, width=width, lanes=None, parent=None, memo={})

    def operand(self, expr: Expr, *, vector: bool) -> Tensor:
        """Return the known value of an operand; of a `vector` operation, ready to be combined."""
        value = self.memo[id(expr)]
        if not vector:
            return value
        value = lifted(expr, value, True)
        if self.lanes is not None:
            value = torch.where(self.lanes, value, torch.ones_like(value))
        return value

    def size(self, expr: Expr) -> int:
        """Return the value of a compile-time int."""
        return int(self.evaluate(expr))

    def fails(self, fault: Tensor, *, vector: bool) -> bool:
        """Whether `fault` must be raised: some element that was selected has it."""
        if not self.strict or self.domain.empty:
            return False
        return bool((fault & self.lanes if vector and self.lanes is not None else fault).any())

    def operands(self, expr: Expr) -> Sequence[Expr]:
        """Return what is evaluated on the whole domain before `expr` is."""
        match expr:
            case Raw():
                return (self.inputs.variant.scale,)
            case Logic():
                return (expr.left,)
            case Select():
                return (expr.condition,)
            case Dot() | Slice():
                return ()
            case RmsNorm() | L2Norm() | Rope() if self.lanes is not None:
                return ()
            case _:
                return tuple(children(expr))

    def _known(self, expr: Expr) -> Tensor | None:
        value = self.memo.get(id(expr))
        if value is None and self.parent is not None:
            outer = self.parent._known(expr)
            if outer is not None:
                same = self.domain is self.parent.domain
                value = outer if same else self.domain.select(outer, vector=expr.type.vector)
                self.memo[id(expr)] = value
        return value


def lifted(expr: Expr, value: Tensor, vector: bool) -> Tensor:
    """Return the value of `expr`, with an axis for the entries where a `vector` is wanted."""
    return value.unsqueeze(-1) if vector and not expr.type.vector else value
