"""Specialise a variant: what is fixed when a kernel is compiled becomes constant.

Maps `Scalar` of a const parameter to its value and `Given` to whether the tensor is passed, in
every expression. Invariant: `params` and `sizes` stay as declared, so that a kernel's arguments
keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnlang.ir.nodes import Const, Expr, Given, Scalar, ScalarParam, Variant
from attnlang.ir.traverse import rewrite
from attnlang.passes.map_variant import map_variant
from attnlang.symbolic.build import const, const_of_kind


def specialise(
    variant: Variant, consts: Mapping[str, bool | int | float], given: frozenset[str]
) -> Variant:
    """Return the variant for these const values (defaults fill in) and these optional tensors.

    Raises ValueError where a const parameter has neither a value nor a default.
    """
    values: dict[str, Const] = {}
    for param in variant.params:
        if isinstance(param, ScalarParam) and param.const:
            value = consts.get(param.name, param.default)
            if value is None:
                raise ValueError(f"the const parameter {param.name} needs a value")
            values[param.name] = const_of_kind(value, param.kind, param.span)

    def fix(expr: Expr) -> Expr:
        match expr:
            case Scalar(name, _) if name in values:
                return const(values[name].value, expr.span)
            case Given(name):
                return const(name in given, expr.span)
        return expr

    return map_variant(variant, lambda expr: rewrite(expr, fix))
