"""`and`, `or` and `if`: each operand is evaluated at the elements that its guard selects."""

from __future__ import annotations

import torch
from torch import Tensor

from attnlang.ir.nodes import Expr, Logic, LogicOp, Select
from attnlang.reference.faults import Fault
from attnlang.reference.scope import Scope, lifted


def logic(expr: Logic, scope: Scope) -> Tensor:
    """`left and right`, `left or right`: the right operand where the left does not decide."""
    left = lifted(expr.left, scope.memo[id(expr.left)], expr.type.vector)
    conjunction = expr.op is LogicOp.AND
    needed = left if conjunction else ~left
    if left.numel() and not bool(needed.any()):
        return left
    if expr.type.vector:
        right = _in_lanes(expr.right, needed, scope)
    else:
        try:  # conditions have no gradient: if nothing fails without the guard, it changes nothing
            right = scope.child().evaluate(expr.right)
        except Fault:
            return scope.masked(expr.right, needed, not conjunction)
    return left & right if conjunction else left | right


def select(expr: Select, scope: Scope) -> Tensor:
    """`then if condition else otherwise`."""
    condition, vector = scope.memo[id(expr.condition)], expr.type.vector
    if bool(condition.all()):
        return lifted(expr.then, scope.evaluate(expr.then), vector)
    if not bool(condition.any()):
        return lifted(expr.otherwise, scope.evaluate(expr.otherwise), vector)
    if expr.condition.type.vector:
        then = _in_lanes(expr.then, condition, scope)
        return torch.where(condition, then, _in_lanes(expr.otherwise, ~condition, scope))
    in_then, in_otherwise = _always(expr.then, scope), _always(expr.otherwise, scope)
    for shared in in_then.keys() & in_otherwise.keys():  # read under either guard: once, on both
        scope.evaluate(in_then[shared])
    then = lifted(expr.then, scope.masked(expr.then, condition, False), vector)
    otherwise = lifted(expr.otherwise, scope.masked(expr.otherwise, ~condition, False), vector)
    return torch.where(condition.unsqueeze(-1) if vector else condition, then, otherwise)


def _always(root: Expr, scope: Scope) -> dict[int, Expr]:
    """Return, by identity, what evaluating `root` evaluates whatever its guards say."""
    seen, stack = {id(root): root}, [root]
    while stack:
        for operand in scope.operands(stack.pop()):
            if id(operand) not in seen:
                seen[id(operand)] = operand
                stack.append(operand)
    return seen


def _in_lanes(expr: Expr, lanes: Tensor, scope: Scope) -> Tensor:
    """Evaluate `expr` for the entries of a vector where `lanes` is true; others hold anything."""
    inner = scope.where(lanes.any(-1))
    if inner is not scope:
        lanes = inner.domain.select(lanes, vector=True)
    both = lanes if inner.lanes is None else lanes & inner.lanes
    value = lifted(expr, inner.child(both).evaluate(expr), True)
    return value if inner is scope else inner.domain.spread(value, False, vector=True)
