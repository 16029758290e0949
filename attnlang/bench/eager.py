"""A variant as a person writes it in eager PyTorch: every score in memory, in the dtype of q.

From a variant and a call to a function of some query rows. It is a yardstick for speed, so it takes
no care that the reference takes (guards, float64, hidden values), and knows what kernels run today:
plain q, k, v and out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attnlang.invent.inputs import Call
from attnlang.invent.masks import call_sizes
from attnlang.ir.nodes import (
    QK,
    Binary,
    CallScale,
    Cast,
    Compare,
    Const,
    Coord,
    CoordName,
    Expr,
    Given,
    Kind,
    Load,
    Logic,
    LogicOp,
    Raw,
    Scalar,
    Select,
    Size,
    Unary,
    Variant,
    Vector,
    VectorName,
)
from attnlang.ir.nodes import Call as FunctionCall
from attnlang.ir.traverse import walk
from attnlang.reference import functions


def is_plain(variant: Variant) -> bool:
    """Whether q, k, v and out are as they were passed and accumulated."""
    vectors = (
        (variant.q, VectorName.Q),
        (variant.k, VectorName.K),
        (variant.v, VectorName.V),
        (variant.out, VectorName.ACC),
    )
    return all(isinstance(e, Vector) and e.name == name for e, name in vectors)


def eager(variant: Variant, call: Call) -> Callable[[Tensor], Tensor]:
    """Return the function that attends for the query rows that it is given, int[R]."""
    group = call.shape.hq // call.shape.hkv
    sizes = call_sizes(variant, call)
    keys = call.k.repeat_interleave(group, dim=1)
    values = call.v.repeat_interleave(group, dim=1)

    def attend(rows: Tensor) -> Tensor:
        products = call.q[:, :, rows] @ keys.transpose(-1, -2)
        elements = _Elements(call, sizes, _coordinates(call, rows), products)
        scale = elements.value(variant.scale)
        elements = _Elements(call, sizes, elements.coordinates, products, products * scale)
        return _weights(variant, elements) @ values

    return attend


def _weights(variant: Variant, elements: _Elements) -> Tensor:
    spec = variant.weights
    hidden = ~elements.value(variant.mask)
    if spec.softmax is None:
        assert spec.factor is not None, "weights have a softmax or a factor"
        return elements.value(spec.factor).masked_fill(hidden, 0.0)
    scores = elements.value(spec.softmax).masked_fill(hidden, -math.inf)
    if spec.sink is not None:
        sink = elements.value(spec.sink).to(scores.dtype).expand(*scores.shape[:3], 1)
        weights = torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return weights if spec.factor is None else weights * elements.value(spec.factor)


def _coordinates(call: Call, rows: Tensor) -> Mapping[CoordName, Tensor]:
    s = call.shape
    heads = torch.arange(s.hq).reshape(1, -1, 1, 1)
    row, column = rows.reshape(1, 1, -1, 1), torch.arange(s.kv).reshape(1, 1, 1, -1)
    return {
        CoordName.B: torch.arange(s.b).reshape(-1, 1, 1, 1),
        CoordName.H: heads,
        CoordName.H_KV: heads // (s.hq // s.hkv),
        CoordName.Q_ROW: row,
        CoordName.Q_IDX: row + (s.kv - s.q),
        CoordName.KV_COL: column,
        CoordName.KV_IDX: column,
        CoordName.PART: torch.zeros((1, 1, 1, 1), dtype=torch.int64),
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Elements:
    """All elements of some rows, [B, HQ, R, KV], each coordinate broadcast."""

    call: Call
    sizes: Mapping[str, int]
    coordinates: Mapping[CoordName, Tensor]
    products: Tensor
    raw: Tensor | None = None

    def value(self, root: Expr) -> Tensor:
        """Evaluate an expression, floats in the dtype of the inputs."""
        values: dict[int, Tensor] = {}
        for expr in walk(root):
            values[id(expr)] = self._node(expr, values)
        return values[id(root)]

    def _node(self, expr: Expr, done: Mapping[int, Tensor]) -> Tensor:
        match expr:
            case Const(value) if isinstance(value, float):
                return self._number(value)
            case Const(value):
                return torch.tensor(value)
            case Coord(name):
                return self.coordinates[name]
            case Size(name):
                return torch.tensor(self.sizes[name])
            case Scalar(name, kind):
                number = torch.as_tensor(self.call.params[name])
                return self._number(float(number)) if kind.kind is Kind.FLOAT else number
            case Given(name):
                return torch.tensor(self.call.params[name] is not None)
            case CallScale():
                return self._number(1 / math.sqrt(self.call.shape.d))
            case Raw():
                assert self.raw is not None, "the scale reads no score"
                return self.raw
            case QK():
                return self.products
            case Load(name, indices):
                return self._read(name, tuple(done[id(i)] for i in indices), expr)
            case Unary(op, operand):
                return functions.unary(op, done[id(operand)])
            case Binary(op, left, right):
                return functions.binary(op, done[id(left)], done[id(right)])
            case Compare(op, left, right):
                return functions.compare(op, done[id(left)], done[id(right)])
            case Logic(op, left, right):
                x, y = done[id(left)], done[id(right)]
                return x & y if op is LogicOp.AND else x | y
            case Select(condition, then, otherwise):
                return torch.where(done[id(condition)], done[id(then)], done[id(otherwise)])
            case Cast(operand, kind):
                return done[id(operand)].to(self._dtype(kind.kind))
            case FunctionCall(function, args):
                return functions.call(function, tuple(done[id(a)] for a in args))
        raise ValueError(f"eager torch is not written for {type(expr).__name__}")

    def _read(self, name: str, indices: tuple[Tensor, ...], expr: Load) -> Tensor:
        tensor = self.call.params[name]
        if not isinstance(tensor, Tensor):  # a guard keeps it from being read
            return torch.zeros((), dtype=self._dtype(expr.type.kind))
        spots = tuple(i.clamp(0, n - 1) for i, n in zip(indices, tensor.shape, strict=True))
        return tensor[spots].to(self._dtype(expr.type.kind))

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self.call.q.dtype)

    def _dtype(self, kind: Kind) -> torch.dtype:
        return {Kind.BOOL: torch.bool, Kind.INT: torch.int64, Kind.FLOAT: self.call.q.dtype}[kind]
