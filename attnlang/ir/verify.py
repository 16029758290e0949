"""Checks that a variant is well formed. What it finds is a mistake of the compiler, not of a spec.

Every rule that `nodes.py` states about kinds and operands is checked here, once per shared node.
"""

from __future__ import annotations

from typing import Final

from attnlang.ir import nodes as ir
from attnlang.ir.traverse import children, walk

_PYTHON: Final = {ir.Kind.BOOL: bool, ir.Kind.INT: int, ir.Kind.FLOAT: float}
_ARITY: Final = {ir.Function.CLAMP: 3, ir.Function.BIT: 2}
_KEEPS_INT: Final = frozenset(
    (ir.Function.ABS, ir.Function.MIN, ir.Function.MAX, ir.Function.CLAMP, ir.Function.SIGN)
)
_BUILTIN_SIZES: Final = frozenset(("B", "HQ", "HKV", "Q", "KV", "D", "DV"))


class IrError(Exception):
    """The IR is inconsistent: a bug of attnlang."""


def verify(variant: ir.Variant) -> None:
    """Raise IrError if a variant breaks a rule of the IR."""
    checker = _Checker(variant)
    for name in ("q", "k", "v", "out"):
        checker.root(name, getattr(variant, name), ir.VECTOR)
    for name in ("scale", "score"):
        checker.root(name, getattr(variant, name), ir.FLOAT)
    checker.root("mask", variant.mask, ir.BOOL)
    weights = variant.weights
    if weights.softmax is None and weights.factor is None:
        raise IrError("weights without softmax need a factor")
    if weights.softmax is None and weights.sink is not None:
        raise IrError("a sink belongs to a softmax")
    for name in ("softmax", "sink", "factor", "dropout"):
        if (part := getattr(weights, name)) is not None:
            checker.root(f"weights.{name}", part, ir.FLOAT)
    for require in variant.requires:
        checker.root("require", require.condition, ir.BOOL)
    for size in variant.sizes:
        checker.root("offset", size.offset, ir.INT)
        tensor = checker.tensors.get(size.tensor)
        if tensor is None or not 0 <= size.axis < len(tensor.dims) or size.factor < 1:
            raise IrError(f"size {size.name} is bound by no axis of {size.tensor}")
    for param in variant.params:
        if isinstance(param, ir.TensorParam):
            for dim in param.dims:
                checker.root(f"a dimension of {param.name}", dim, ir.INT)


class _Checker:
    def __init__(self, variant: ir.Variant) -> None:
        params = variant.params
        self.scalars = {p.name: p for p in params if isinstance(p, ir.ScalarParam)}
        self.tensors = {p.name: p for p in params if isinstance(p, ir.TensorParam)}
        self.sizes = _BUILTIN_SIZES | {size.name for size in variant.sizes}
        self._seen: dict[int, ir.Expr] = {}
        if len(self.scalars) + len(self.tensors) < len(params):
            raise IrError("two parameters have one name")

    def root(self, what: str, expr: ir.Expr, type_: ir.Type) -> None:
        """Check an expression of a variant."""
        if expr.type != type_:
            raise IrError(f"{what} is {expr.type}, not {type_}")
        for node in walk(expr):
            if id(node) not in self._seen:
                self._seen[id(node)] = node
                self._node(node)

    def _node(self, node: ir.Expr) -> None:
        match node:
            case ir.Const(value, type_):
                _need(not type_.vector and type(value) is _PYTHON[type_.kind], node)
            case ir.Coord(name, type_):
                _need(type_ == ir.Type(ir.Kind.INT, name == ir.CoordName.D), node)
            case ir.Anchor(name, type_):
                rows = (ir.CoordName.Q_IDX, ir.CoordName.Q_ROW)
                _need(name in rows and type_ == ir.INT, node)
            case ir.Size(name, type_):
                _need(name in self.sizes and type_ == ir.INT, node)
            case ir.Scalar(name, type_):
                param = self.scalars.get(name)
                _need(param is not None and type_ == ir.Type(param.kind), node)
            case ir.Given(name, type_):
                tensor = self.tensors.get(name)
                _need(tensor is not None and tensor.optional and type_ == ir.BOOL, node)
            case ir.CallScale() | ir.Raw() | ir.QK() | ir.RowSum() | ir.Lse():
                _need(node.type == ir.FLOAT, node)
            case ir.Vector():
                _need(node.type == ir.VECTOR, node)
            case ir.Load():
                self._load(node)
            case ir.RmsNorm() | ir.L2Norm() | ir.Rope() | ir.Dot() | ir.Slice():
                self._vector(node)
            case _:
                _elementwise(node)

    def _load(self, node: ir.Load) -> None:
        tensor = self.tensors.get(node.tensor)
        _need(tensor is not None and len(node.indices) == len(tensor.dims), node)
        _need(all(i.type.kind == ir.Kind.INT for i in node.indices), node)
        kind = node.type.kind if tensor is None else tensor.kind
        _need(node.type == _joined(kind, *node.indices), node)

    def _vector(self, node: ir.RmsNorm | ir.L2Norm | ir.Rope | ir.Dot | ir.Slice) -> None:
        match node:
            case ir.Dot(left, right, type_):
                _need(left.type == right.type == ir.VECTOR and type_ == ir.FLOAT, node)
            case ir.Slice(operand, start, stop, type_):
                _need(operand.type == type_ == ir.VECTOR, node)
                _need(start.type == stop.type == ir.INT, node)
            case ir.RmsNorm(operand, weight, eps, type_):
                _need(operand.type == type_ == ir.VECTOR and eps.type == ir.FLOAT, node)
                _need(weight is None or weight.type == ir.VECTOR, node)
            case ir.L2Norm(operand, eps, type_):
                _need(operand.type == type_ == ir.VECTOR and eps.type == ir.FLOAT, node)
            case ir.Rope(operand, position, base, freqs, start, dims, _, type_):
                _need(operand.type == type_ == ir.VECTOR, node)
                _need(position.type == base.type == ir.FLOAT and start.type == ir.INT, node)
                _need(dims is None or dims.type == ir.INT, node)
                tensor = None if freqs is None else self.tensors.get(freqs)
                _need(freqs is None or (tensor is not None and len(tensor.dims) == 1), node)


def _elementwise(node: ir.Expr) -> None:
    match node:
        case ir.Unary(op, operand, type_):
            _need(type_ == operand.type and (op == ir.UnaryOp.NOT) == _is_bool(operand), node)
        case ir.Binary(op, left, right, type_):
            _need(not _is_bool(left) and not _is_bool(right), node)
            _need(type_ == _joined(_arithmetic_kind(node), left, right), node)
            _need(op == ir.BinaryOp.POW or left.type.kind == right.type.kind, node)
        case ir.Compare(op, left, right, type_):
            _need(left.type.kind == right.type.kind, node)
            _need(not _is_bool(left) or op in (ir.CompareOp.EQ, ir.CompareOp.NE), node)
            _need(type_ == _joined(ir.Kind.BOOL, left, right), node)
        case ir.Logic(_, left, right, type_):
            _need(_is_bool(left) and _is_bool(right), node)
            _need(type_ == _joined(ir.Kind.BOOL, left, right), node)
        case ir.Select(condition, then, otherwise, type_):
            _need(_is_bool(condition) and then.type.kind == otherwise.type.kind, node)
            _need(type_ == _joined(then.type.kind, condition, then, otherwise), node)
        case ir.Cast(operand, type_):
            _need(type_.kind != operand.type.kind and type_.kind != ir.Kind.BOOL, node)
            _need(type_.vector == operand.type.vector, node)
        case ir.Call():
            _call(node)
        case _:
            _need(False, node)


def _call(node: ir.Call) -> None:
    function, args = node.function, node.args
    if function in (ir.Function.MIN, ir.Function.MAX):
        _need(len(args) >= 2, node)
    else:
        _need(len(args) == _ARITY.get(function, 1), node)
    kinds = {a.type.kind for a in args}
    if function == ir.Function.BIT:
        _need(kinds == {ir.Kind.INT}, node)
        _need(node.type == _joined(ir.Kind.BOOL, *args), node)
        return
    allowed = {ir.Kind.FLOAT, ir.Kind.INT} if function in _KEEPS_INT else {ir.Kind.FLOAT}
    _need(len(kinds) == 1 and kinds <= allowed, node)
    _need(node.type == _joined(args[0].type.kind, *args), node)


def _arithmetic_kind(node: ir.Binary) -> ir.Kind:
    """Return the kind that an operation on its operands has."""
    if node.op == ir.BinaryOp.POW and node.left.type.kind == ir.Kind.INT:
        exponent = node.right
        whole = isinstance(exponent, ir.Const) and isinstance(exponent.value, int)
        _need(whole and exponent.value >= 0, node)  # type: ignore[union-attr]
        return ir.Kind.INT
    if node.op == ir.BinaryOp.DIV:
        _need(node.left.type.kind == ir.Kind.FLOAT, node)
        return ir.Kind.FLOAT
    return node.left.type.kind


def _is_bool(expr: ir.Expr) -> bool:
    return expr.type.kind == ir.Kind.BOOL


def _joined(kind: ir.Kind, *operands: ir.Expr) -> ir.Type:
    return ir.Type(kind, any(x.type.vector for x in operands))


def _need(condition: bool, node: ir.Expr) -> None:
    if not condition:
        operands = ", ".join(f"{type(c).__name__} of {c.type}" for c in children(node))
        raise IrError(f"inconsistent {type(node).__name__} of {node.type}, made of ({operands})")
