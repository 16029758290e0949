"""What the names of one attention mean while its statements run in order.

Maps a name to its last value, before that to its default. Invariant: a value that is read here was
complete when it was assigned, so no name can need itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attnlang.ir import nodes as ir
from attnlang.sema.misuse import MaybeAbsent
from attnlang.sema.names import BUILTIN_VALUES, SIZES, VECTORS
from attnlang.sema.scope import Scope
from attnlang.sema.session import Session
from attnlang.sema.values import POISON, TensorRef, Value, WeightForm
from attnlang.sources import Span
from attnlang.syntax import ast


@dataclass(slots=True)
class Variables:
    """The names of an attention. `later` are the locals that are not assigned yet."""

    session: Session
    scalars: dict[str, ir.Type] = field(default_factory=dict)
    tensors: dict[str, TensorRef] = field(default_factory=dict)
    sizes: dict[str, str | None] = field(default_factory=dict)  # the optional tensor that binds it
    values: dict[str, Value] = field(default_factory=dict)
    later: dict[str, Span] = field(default_factory=dict)
    poisoned: set[str] = field(default_factory=set)  # parameters with an error
    score_read: Span | None = None

    @property
    def optional(self) -> frozenset[str]:
        """The tensors that a call may leave out."""
        return frozenset(name for name, t in self.tensors.items() if t.optional)

    def names(self, scope: Scope) -> tuple[str, ...]:
        """Return every name that an expression in this scope could read, for suggestions."""
        if scope.args is not None:
            return (*scope.args, *SIZES)
        return (*BUILTIN_VALUES, *self.scalars, *self.tensors, *self.sizes, *self.values)

    def describe(self, name: str) -> str | None:
        """Return what a name of this attention is, in words."""
        if name in self.tensors:
            return "a tensor"
        if name in self.scalars or name in self.poisoned:
            return "a parameter"
        if name in self.sizes:
            return "a size"
        return "a local" if name in self.values else None

    def read(self, node: ast.Name, scope: Scope) -> Value | None:
        """Return what a name means, or None when it is none of this attention's."""
        name, leaf = node.id, self.session.leaf
        if name in SIZES:
            return leaf(ir.Size(name, span=node.span))
        if scope.args is not None:
            return None
        if name in self.poisoned:
            return POISON
        if name == "score" and self.score_read is None:
            self.score_read = node.span
        if name in self.values:
            return self.values[name]
        if name in self.scalars:
            return leaf(ir.Scalar(name, self.scalars[name], span=node.span))
        if name in self.tensors:
            return self.tensors[name]
        if name in self.sizes:
            return self._size(node, scope)
        return self.default(name, node.span)

    def _size(self, node: ast.Name, scope: Scope) -> Value:
        tensor = self.sizes[node.id]
        if tensor is not None and tensor not in scope.given:
            self.session.report(MaybeAbsent(node.id, tensor, span=node.span), scope.calls)
            return POISON
        return self.session.leaf(ir.Size(node.id, span=node.span))

    def default(self, name: str, span: Span) -> Value | None:
        """Return what a result, a vector or a sum is before it is assigned."""
        leaf = self.session.leaf
        if name in VECTORS:
            return leaf(ir.Vector(VECTORS[name], span=span))
        match name:
            case "scale":
                return leaf(ir.CallScale(span=span))
            case "score":
                return leaf(ir.Raw(span=span))
            case "mask":
                return leaf(ir.Const(True, ir.BOOL, span=span))
            case "weights":
                return self._default_weights(span)
            case "out":
                return leaf(ir.Vector(ir.VectorName.ACC, span=span))
            case "row_sum":
                return leaf(ir.RowSum(span=span))
            case "lse":
                return leaf(ir.Lse(span=span))
            case _:
                return None

    def _default_weights(self, span: Span) -> Value:
        """Return `softmax(score)`, of the score as it is now."""
        if self.score_read is None:
            self.score_read = span
        score = self.values.get("score") or self.default("score", span)
        if isinstance(score, ir.Expr):
            return WeightForm(score, None, None, None, span)
        return POISON
