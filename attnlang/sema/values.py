"""What an expression can mean while it is analysed.

Value = ir.Expr            a scalar or a vector
| TensorRef          a tensor by its name, as an argument of a def
| NoTensor           `none`
| WeightForm         a weight that holds a softmax or a dropout
| Poison             an error that has been reported; silences what follows
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attnlang.ir import nodes as ir
from attnlang.sources import Span


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor parameter that is named, not read."""

    name: str
    kind: ir.Kind
    dims: tuple[ir.Expr, ...]
    optional: bool
    declared: Span


@dataclass(frozen=True, slots=True)
class NoTensor:
    """`none`."""


@dataclass(frozen=True, slots=True)
class WeightForm:
    """`softmax(softmax, sink=sink) * factor * dropout(dropout)`, any of them left out."""

    softmax: ir.Expr | None
    sink: ir.Expr | None
    factor: ir.Expr | None
    dropout: ir.Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Poison:
    """The value of an expression with an error."""


POISON: Final = Poison()
NO_TENSOR: Final = NoTensor()

Value = ir.Expr | TensorRef | NoTensor | WeightForm | Poison
Plain = ir.Expr | Poison
"""What an expression that must be a number, a bool or a vector of them gives."""
