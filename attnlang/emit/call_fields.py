"""What a functor reads straight from the call: scale, seed, sizes, parameters, views of tensors.

Maps a plan to `CallField`s. A CPU kernel fills its `Params` from the `Call` at once. For a GPU the
host fills `Arguments`, which are plain data, and a kernel reads them: a scalar may be a number or
lie in the GPU's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from attnlang.emit.cpp_text import param_field, size_field
from attnlang.emit.programs import Programs
from attnlang.emit.vector_program import exact_name
from attnlang.ir.nodes import (
    CallScale,
    Coord,
    CoordName,
    Expr,
    Kind,
    Load,
    Scalar,
    ScalarParam,
    Size,
    TensorParam,
    VectorName,
)
from attnlang.plan.packing import packed_rows
from attnlang.plan.plan import Plan, tensor_params

TENSOR = {
    "f32": "float",
    "f64": "double",
    "f16": "Half",
    "bf16": "Bf16",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "u8": "uint8_t",
    "boolean": "bool",
}
_VECTOR_ROWS = 2  # the axis of q, k and v


@dataclass(frozen=True, slots=True)
class Rows:
    """The axis of a view along which it has rows of requests.

    `own`: in a packed call those of all requests, one after another; else each has the same.
    """

    of: str  # of queries, of keys, or of a tensor that has keys for rows: columns
    axis: int
    own: bool


@dataclass(frozen=True, slots=True)
class CallField:
    """A field; `value` makes it of a `Call`, `argument` makes the GPU kernel's argument for it."""

    type: str
    name: str
    value: str
    argument_type: str
    argument: str
    rows: Rows | None = None


def call_fields(plan: Plan, used: Iterable[Expr], programs: Programs) -> Iterator[CallField]:
    """Yield the fields that the expressions of a plan read."""
    used = tuple(used)
    if any(isinstance(e, CallScale) for e in used):
        yield _scalar("float", "scale", "float(call.scale)", "scale_argument(call)")
    if plan.lowered.dropout is not None:
        yield _scalar("uint64_t", "seed", "call.seed", "seed_argument(call)")
    if any(isinstance(e, Coord) and e.name == CoordName.PART for e in used):
        yield _plain("int64_t", "part", "part_of(call)")
    yield from _sizes(plan, used)
    yield from _scalars(plan, used)
    yield from _tensors(plan, used, programs)
    yield from _of_programs(plan, programs)


def _sizes(plan: Plan, used: tuple[Expr, ...]) -> Iterator[CallField]:
    names = {e.name for e in used if isinstance(e, Size)}
    known = {
        "B": "requests_of(call)",
        "HQ": "call.q.size[1]",
        "HKV": "call.k.size[1]",
        "D": str(plan.key.head_dim),
        "DV": str(plan.key.value_dim),
    }
    sizes = plan.lowered.variant.sizes
    bound = {s.name: f"call.sizes[{i}]" for i, s in enumerate(sizes)}
    for name, value in {**known, **bound}.items():
        if name in names:
            yield _plain("int64_t", size_field(name), value)


def _scalars(plan: Plan, used: tuple[Expr, ...]) -> Iterator[CallField]:
    names = {e.name for e in used if isinstance(e, Scalar)}
    for i, param in _runtime(plan):
        if param.name in names:
            type_, value, argument = {
                Kind.FLOAT: ("float", f"float(call.scalars[{i}].real)", "real"),
                Kind.INT: ("int64_t", f"call.scalars[{i}].integer", "integer"),
                Kind.BOOL: ("bool", f"call.scalars[{i}].integer != 0", "boolean"),
            }[param.kind]
            yield _scalar(type_, param_field(param.name), value, f"{argument}_argument(call, {i})")


def _tensors(plan: Plan, used: tuple[Expr, ...], programs: Programs) -> Iterator[CallField]:
    names = {e.tensor for e in used if isinstance(e, Load)} | programs.freqs()
    for i, param in enumerate(tensor_params(plan.lowered.variant)):
        if param.name in names:
            view = f"{TENSOR[plan.dtypes[param.name]]}, {len(param.dims)}"
            value = f"view<{view}>(call.tensors[{i}])"
            field = _plain(f"View<{view}>", param_field(param.name), value)
            yield replace(field, rows=_rows(param))


def _rows(param: TensorParam) -> Rows | None:
    packed = packed_rows(param)
    if not packed.packs or packed.row_axis < 0:
        return None
    keys = "columns" if packed.folds else "keys"
    return Rows("queries" if packed.size == "Q" else keys, packed.row_axis, packed.folds)


def _of_programs(plan: Plan, programs: Programs) -> Iterator[CallField]:
    """Yield vectors of hoisted products, and exact numbers."""
    for name in programs.vectors():
        view = f"{TENSOR[plan.key.dtype]}, 4"
        field = _plain(f"View<{view}>", f"vector_{name.value}", f"view<{view}>(call.{name.value})")
        rows = "queries" if name is VectorName.Q else "keys"
        yield replace(field, rows=Rows(rows, _VECTOR_ROWS, own=True))
    exact = programs.exact()
    for i, param in _runtime(plan):
        if param.name in exact:
            value = f"call.scalars[{i}].real"
            yield _scalar("double", exact_name(param.name), value, f"exact_argument(call, {i})")


def _runtime(plan: Plan) -> Iterator[tuple[int, ScalarParam]]:
    params = plan.lowered.variant.params
    yield from enumerate(p for p in params if isinstance(p, ScalarParam) and not p.const)


def _plain(type_: str, name: str, value: str) -> CallField:
    return CallField(type_, name, value, type_, value)


def _scalar(type_: str, name: str, value: str, argument: str) -> CallField:
    return CallField(type_, name, value, f"ScalarArgument<{type_}>", argument)
