"""What a plan freezes: the parameters that the mask reads.

Maps the keywords of `plan` and of `run` to the values of a call. Invariant: a run sees the values
that its plan was made for.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import ScalarParam, TensorParam, Variant
from attnlang.ops import arguments as check
from attnlang.ops.errors import CallError
from attnlang.ops.keys import key_of
from attnlang.ops.part_core import mask_params
from attnlang.ops.parts import Paged

Value = ParamValue | Paged

_PLAN_KEYWORDS = (
    "num_q_heads", "q_offset", "kv_offset", "batch_invariant", "share_prefixes", "max_requests",
    "max_q_tokens", "max_pages",
)  # fmt: skip
_RUN_KEYWORDS = ("scale", "seed", "return_lse", "return_max")


def freeze(ir: Variant, params: Mapping[str, Value]) -> dict[str, Value]:
    """Return the value of each parameter that the mask reads."""
    names = mask_params(ir)
    for name in params:
        if name not in names and any(p.name == name for p in ir.params):
            raise CallError(
                name, "nothing: the mask does not read it", "a value", help="pass it to `run`"
            )
    declared = tuple(p for p in ir.params if p.name in names)
    named = check.name_params(declared, (), params, _PLAN_KEYWORDS)  # type: ignore[arg-type]
    values: dict[str, Value] = dict(named)
    for param in declared:
        value = values[param.name]
        if isinstance(param, ScalarParam) and not isinstance(value, Paged):
            check.check_scalar(param, value)
        elif isinstance(param, TensorParam) and not isinstance(value, Paged | Tensor):
            if value is None and param.optional:
                continue
            raise CallError(param.name, check.describe_param(param), type(value).__name__)
    return values


def _same(given: object, frozen: object) -> bool:
    if isinstance(given, Paged) and isinstance(frozen, Paged):
        return given.tensor is frozen.tensor
    if isinstance(given, Tensor) or isinstance(frozen, Tensor):
        return given is frozen
    return type(given) is type(frozen) and key_of(given) == key_of(frozen)


def _describe(value: object) -> str:
    if isinstance(value, Paged):
        return "the Paged tensor given there"
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)


def all_values(
    ir: Variant, frozen: Mapping[str, Value], params: Mapping[str, Value]
) -> dict[str, Value]:
    """Return the value of every parameter; what the plan froze may only be repeated."""
    given = dict(params)
    for name, value in frozen.items():
        if name in given and not _same(given[name], value):
            raise CallError(
                name,
                f"the plan's value, {_describe(value)}: the mask reads it",
                _describe(given[name]),
                help="make another plan for another value",
            )
        given[name] = value
    return dict(check.name_params(ir.params, (), given, _RUN_KEYWORDS))  # type: ignore[arg-type]
