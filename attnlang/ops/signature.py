"""The Python signature that a variant's header declares.

Maps the IR to `inspect.Signature`: q, k, v, the parameters, then the call's own keywords.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from attnlang.emit.op_schema import takes_v
from attnlang.ir.nodes import Kind, Param, ScalarParam, TensorParam
from attnlang.ir.nodes import Variant as VariantIr

KEYWORDS: Mapping[str, object] = {
    "scale": None,
    "q_offset": None,
    "kv_offset": 0,
    "kv_lens": None,
    "seed": None,
    "kv_indices": None,
    "kv_block": 1,
    "return_lse": False,
    "return_max": False,
}


def signature(ir: VariantIr) -> inspect.Signature:
    """Return the Python signature that the header declares, with the call's own keywords."""
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    empty = inspect.Parameter.empty
    parameters = [inspect.Parameter(n, positional) for n in ("q", "k")]
    if takes_v(ir):
        parameters.append(inspect.Parameter("v", positional))
    defaulted = False
    for param in ir.params:
        optional = isinstance(param, TensorParam) and param.optional
        default = param.default if isinstance(param, ScalarParam) else None
        has_default = optional or default is not None
        # After one default Python allows no positional parameter without: those are by name.
        kind = keyword if defaulted and not has_default else positional
        defaulted = defaulted or has_default
        parameters.append(
            inspect.Parameter(param.name, kind, default=default if has_default else empty)
        )
    parameters.extend(inspect.Parameter(n, keyword, default=d) for n, d in KEYWORDS.items())
    parameters.sort(key=lambda p: p.kind)
    return inspect.Signature(parameters)


def left_out(param: Param) -> object:
    """Return the value of a parameter that need not be passed, for the op has it as its default.

    A float 0 is passed: -0.0 equals it, and is another.
    """
    if not isinstance(param, ScalarParam) or (param.kind is Kind.FLOAT and param.default == 0):
        return None
    return param.default
