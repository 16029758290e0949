"""`Variant.explain`: from what Python passed to an explanation, or a `CallError`.

Maps lengths and parameters to the call that is asked about. Invariant: a given tensor has the shape
that the spec declares before anything is computed with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attnlang.diagnostics.suggest import nearest
from attnlang.explain.explanation import Explanation
from attnlang.explain.machine import this_machine
from attnlang.explain.make import explain, request
from attnlang.invent.errors import InputError
from attnlang.invent.settings import Settings
from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import Expr, ScalarParam, Size, TensorParam, Variant
from attnlang.ir.traverse import walk
from attnlang.ops import arguments as check
from attnlang.ops.errors import CallError


def explain_call(
    variant: Variant, q_len: int | None, kv_len: int | None, params: Mapping[str, ParamValue]
) -> Explanation:
    """Explain a variant for a call of these lengths, its other arguments given or invented."""
    for name, length in (("q_len", q_len), ("kv_len", kv_len)):
        if length is None:
            continue
        if not isinstance(length, int) or isinstance(length, bool):
            raise CallError(name, "an int", f"{type(length).__name__} {length!r}")
        if not 1 <= length < check.POSITION_LIMIT:
            raise CallError(name, "a length from 1 to 2 ** 30 - 1", str(length))
    scalars, tensors = _given(variant, params)
    sizes = _bound_sizes(variant, tensors)
    settings = Settings(scalars, {}, sizes, tensors)
    try:
        wanted = request(variant, q_len, kv_len, settings)
        _check_tensors(variant, tensors, wanted.shape, sizes)
        return explain(variant, wanted, this_machine())
    except InputError as error:
        raise CallError("parameters", "values that the spec takes", str(error)) from None


def _given(
    variant: Variant, params: Mapping[str, ParamValue]
) -> tuple[dict[str, bool | int | float], dict[str, Tensor]]:
    known = {p.name: p for p in variant.params}
    scalars: dict[str, bool | int | float] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in params.items():
        if name not in known:
            close = nearest(name, list(known))
            expected = f"one of {', '.join(known)}" if known else "no parameter"
            tip = f"a similar name exists: `{close}`" if close else None
            raise CallError(name, expected, "a name that the spec does not have", help=tip)
        param = known[name]
        if isinstance(param, ScalarParam):
            check.check_scalar(param, value)
            scalars[name] = value.item() if isinstance(value, Tensor) else _number(value)
        elif value is not None or not param.optional:
            check.check_tensor(param, value)
            assert isinstance(value, Tensor)
            tensors[name] = value.detach()
    return scalars, tensors


def _number(value: ParamValue) -> bool | int | float:
    assert isinstance(value, bool | int | float)
    return value


def _bound_sizes(variant: Variant, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes that the given tensors bind, of those that no size of the call offsets."""
    sizes: dict[str, int] = {}
    for bound in variant.sizes:
        if bound.tensor in tensors and _known(bound.offset, sizes):
            rest = tensors[bound.tensor].shape[bound.axis]
            rest -= check.size_value(bound.offset, sizes, {})
            sizes[bound.name] = max(rest, 0) // bound.factor
    return sizes


def _known(expr: Expr, sizes: Mapping[str, int]) -> bool:
    return all(e.name in sizes for e in walk(expr) if isinstance(e, Size))


def _check_tensors(
    variant: Variant, tensors: Mapping[str, Tensor], shape: Shape, bound: Mapping[str, int]
) -> None:
    sizes = {**shape.sizes(), **bound}
    for param in variant.params:
        if isinstance(param, TensorParam) and param.name in tensors:
            tensor = tensors[param.name]
            if all(_known(dim, sizes) for dim in param.dims):
                check.check_dims(param, tensor, sizes, {})
