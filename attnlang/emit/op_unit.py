"""From a variant to the unit of its torch op: a table, no code of its own.

The unit holds the schema, the arguments' roles, and how sizes are solved and shapes compared. The
rest is `binding_sources`, the same for all ops and therefore built once a cache. Names reach a unit
as escaped string literals only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnlang.emit.entry_points import OP, REGISTER, REGISTER_BACKWARD
from attnlang.emit.op_schema import Argument, OpSchema, make_schema, takes_v
from attnlang.emit.templates import render
from attnlang.ir.nodes import (
    Binary,
    BinaryOp,
    BoundSize,
    Const,
    Expr,
    Kind,
    ScalarParam,
    Size,
    TensorParam,
    Unary,
    UnaryOp,
    Variant,
    Vector,
)
from attnlang.jit.units import Sources, Target, Unit
from attnlang.plan.packing import packed_rows
from attnlang.plan.widths import width_expr

_FLAGS = ("-O1",)
_CALL_SIZES = ("B", "HQ", "HKV", "Q", "KV", "D", "DV")
_OPERATORS = {BinaryOp.ADD: "+", BinaryOp.SUB: "-", BinaryOp.MUL: "*"}
_FUNCTIONS = {BinaryOp.FLOORDIV: "floor_div", BinaryOp.MOD: "floor_mod"}
_TENSOR_KINDS = {Kind.FLOAT: "real", Kind.INT: "integer", Kind.BOOL: "boolean"}


@dataclass(frozen=True, slots=True)
class ArgumentText:
    """A line of the argument table."""

    name: str
    role: str
    index: int


@dataclass(frozen=True, slots=True)
class TensorText:
    """A line of the table of tensor parameters."""

    name: str
    kind: str
    rank: int
    rows: str
    batch_axis: int
    row_axis: int
    packs: str


@dataclass(frozen=True, slots=True)
class SizeText:
    """A size solved from a tensor."""

    slot: int
    tensor: int
    axis: int
    factor: int
    offset: str


@dataclass(frozen=True, slots=True)
class CopyText:
    """A size that two tensors bind: every slot of its name holds the same."""

    to: int
    origin: int


@dataclass(frozen=True, slots=True)
class ExtentText:
    """A declared extent of a tensor."""

    tensor: int
    axis: int
    size: str


@dataclass(frozen=True, slots=True)
class WidthText:
    """A last dimension that the spec's transforms make."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class BackwardText:
    """The functions of a backward kernel, another unit of the same object."""

    run: str
    workspace: str | None  # None: of the CPU
    dense: str = "true"  # whether it runs dense calls, and packed ones
    packed: str = "true"


@dataclass(frozen=True, slots=True)
class OpContext:
    """What `op.cpp.j2` reads; every string is C++ text."""

    variant: str
    name: str
    schema: str
    tiles_schema: str
    packed_schema: str
    schedule_schema: str
    api_schema: str
    arguments: tuple[ArgumentText, ...]
    packed_arguments: tuple[ArgumentText, ...]
    tensors: tuple[TensorText, ...]
    sizes: tuple[SizeText, ...]
    copies: tuple[CopyText, ...]
    extents: tuple[ExtentText, ...]
    argument_count: int
    packed_argument_count: int
    scalar_count: int
    tensor_count: int
    size_count: int
    has_dropout: str
    backward: BackwardText | None  # the backward kernel whose op this is
    widths: tuple[WidthText, ...]


def binding_sources() -> Sources:
    """Return what registers ops with torch and does their calls: nothing in it is a variant's."""
    return Sources("attnlang_binding", Target.CPU, (binding_unit(),), (REGISTER, REGISTER_BACKWARD))


def binding_unit() -> Unit:
    """Return the unit alone, for an object that stands by itself."""
    text = '#include "attnlang/host/op_binding.h"\n'
    return Unit("binding.cpp", text, torch=True, flags=_FLAGS)


def op_sources(variant: Variant, op_name: str) -> Sources:
    """Emit the op `torch.ops.attnlang.<op_name>`, for the binding to register."""
    return Sources(f"{op_name}_op", Target.CPU, (op_unit(variant, op_name),), (OP,))


def op_unit(variant: Variant, op_name: str) -> Unit:
    """Emit the unit alone."""
    context = op_context(variant, make_schema(variant, op_name))
    return Unit("op.cpp", render("op.cpp.j2", context), portable=True, flags=_FLAGS)


def backward_op_unit(variant: Variant, op_name: str, backward: BackwardText) -> Unit:
    """Emit the unit of the op of one backward kernel, a function of the same object."""
    context = op_context(variant, make_schema(variant, op_name), backward)
    return Unit("op.cpp", render("op.cpp.j2", context), portable=True, flags=_FLAGS)


def op_context(
    variant: Variant,
    schema: OpSchema,
    backward: BackwardText | None = None,
) -> OpContext:
    """Fill the template's context."""
    tensors = [p for p in variant.params if isinstance(p, TensorParam)]
    scalars = [p for p in variant.params if isinstance(p, ScalarParam) and not p.const]
    slots = _slots(variant)
    return OpContext(
        variant=variant.name,
        name=c_string(schema.name),
        schema=c_string(schema.forward if backward is None else schema.backward()),
        tiles_schema=c_string(schema.tiles),
        packed_schema=c_string(schema.packed if backward is None else schema.backward(packed=True)),
        schedule_schema=c_string(schema.schedule),
        api_schema=c_string(schema.api),
        arguments=_arguments(schema.arguments),
        packed_arguments=_arguments(schema.schedule_arguments),
        tensors=tuple(map(_tensor, tensors)),
        sizes=tuple(_size(bound, tensors, slots) for bound in variant.sizes),
        copies=tuple(
            CopyText(i, slots[bound.name])
            for i, bound in enumerate(variant.sizes)
            if slots[bound.name] != i
        ),
        extents=tuple(_extents(tensors, slots)),
        argument_count=len(schema.arguments),
        packed_argument_count=len(schema.packed_arguments),
        scalar_count=len(scalars),
        tensor_count=len(tensors),
        size_count=len(variant.sizes),
        has_dropout="true" if variant.weights.dropout is not None else "false",
        backward=backward,
        widths=tuple(_widths(variant)),
    )


def _arguments(arguments: tuple[Argument, ...]) -> tuple[ArgumentText, ...]:
    return tuple(ArgumentText(c_string(a.name), f"{a.role}", a.index) for a in arguments)


def _tensor(param: TensorParam) -> TensorText:
    rows = packed_rows(param)
    return TensorText(
        name=c_string(param.name),
        kind=_TENSOR_KINDS[param.kind],
        rank=len(param.dims),
        rows={"Q": "queries", "KV": "keys"}.get(rows.size, "shared"),
        batch_axis=rows.batch_axis,
        row_axis=rows.row_axis,
        packs="true" if rows.packs else "false",
    )


def _widths(variant: Variant) -> Iterator[WidthText]:
    acc, out = (width_expr(variant, e) for e in (variant.v, variant.out))
    if not takes_v(variant) and acc is not None:
        yield WidthText("DV", print_size(acc, {}))
    if out is not None and not (isinstance(variant.v, Vector) and isinstance(variant.out, Vector)):
        yield WidthText("out", print_size(out, {}))


def _slots(variant: Variant) -> dict[str, int]:
    slots: dict[str, int] = {}
    for i, bound in enumerate(variant.sizes):
        slots.setdefault(bound.name, i)
    return slots


def _size(bound: BoundSize, tensors: list[TensorParam], slots: dict[str, int]) -> SizeText:
    tensor = next(i for i, t in enumerate(tensors) if t.name == bound.tensor)
    offset = print_size(bound.offset, slots)
    return SizeText(slots[bound.name], tensor, bound.axis, bound.factor, offset)


def _extents(tensors: list[TensorParam], slots: dict[str, int]) -> Iterator[ExtentText]:
    for i, tensor in enumerate(tensors):
        for axis, dim in enumerate(tensor.dims):
            yield ExtentText(i, axis, print_size(dim, slots))


def print_size(expr: Expr, slots: dict[str, int]) -> str:
    """Print an int expression over sizes; `slots` says where each bound size is kept."""
    match expr:
        case Const(value=value):
            return f"int64_t{{{int(value)}}}"
        case Size(name=name):
            return f"e.{name}" if name in _CALL_SIZES else f"e.bound[{slots[name]}]"
        case Unary(op=UnaryOp.NEG, operand=operand):
            return f"(-{print_size(operand, slots)})"
        case Binary(op=op, left=left, right=right) if op in _OPERATORS:
            return f"({print_size(left, slots)} {_OPERATORS[op]} {print_size(right, slots)})"
        case Binary(op=op, left=left, right=right) if op in _FUNCTIONS:
            return f"{_FUNCTIONS[op]}({print_size(left, slots)}, {print_size(right, slots)})"
    raise TypeError(f"an extent may not hold a {type(expr).__name__}")


def c_string(text: str) -> str:
    """Write a C++ string literal; what is not plain ASCII becomes octal escapes of its UTF-8."""
    plain = [
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in text.encode()
    ]
    return f'"{"".join(plain)}"'
