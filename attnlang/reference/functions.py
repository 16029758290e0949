"""Operators and functions of the language on tensors: LANGUAGE section 5, one entry each.

Ints are int64; floats have the evaluator's compute dtype. Gradients at kinks and ties are torch's.
Division by zero of `//` and `%` gives 0 here; the evaluator has raised before where it must.
"""

from __future__ import annotations

from functools import reduce
from typing import assert_never

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from attnlang.ir.nodes import BinaryOp, CompareOp, Function, UnaryOp

_LAST_BIT = 63


def unary(op: UnaryOp, x: Tensor) -> Tensor:
    """`-x`, `not x`."""
    match op:
        case UnaryOp.NEG:
            return -x
        case UnaryOp.NOT:
            return ~x
        case _:
            assert_never(op)


def binary(op: BinaryOp, x: Tensor, y: Tensor) -> Tensor:
    """Arithmetic on two operands of one kind (`**`: a float may have an int exponent)."""
    match op:
        case BinaryOp.ADD:
            return x + y
        case BinaryOp.SUB:
            return x - y
        case BinaryOp.MUL:
            return x * y
        case BinaryOp.DIV:
            return x / y
        case BinaryOp.FLOORDIV | BinaryOp.MOD:
            return _floor_divide(op, x, y)
        case BinaryOp.POW:
            return torch.pow(x, y)
        case _:
            assert_never(op)


def _floor_divide(op: BinaryOp, x: Tensor, y: Tensor) -> Tensor:
    zero = y == 0
    y = torch.where(zero, torch.ones_like(y), y)
    if op is BinaryOp.FLOORDIV:
        result = torch.div(x, y, rounding_mode="floor")
    else:
        result = torch.remainder(x, y)
    return torch.where(zero, torch.zeros_like(result), result)


def compare(op: CompareOp, x: Tensor, y: Tensor) -> Tensor:
    """One comparison."""
    match op:
        case CompareOp.EQ:
            return x == y
        case CompareOp.NE:
            return x != y
        case CompareOp.LT:
            return x < y
        case CompareOp.LE:
            return x <= y
        case CompareOp.GT:
            return x > y
        case CompareOp.GE:
            return x >= y
        case _:
            assert_never(op)


def call(function: Function, args: tuple[Tensor, ...]) -> Tensor:
    """Apply an elementwise function."""
    x = args[0]
    match function:
        case Function.ABS:
            return torch.abs(x)
        case Function.MIN:
            return reduce(torch.minimum, args)
        case Function.MAX:
            return reduce(torch.maximum, args)
        case Function.CLAMP:
            return torch.clamp(x, args[1], args[2])
        case Function.SIGN:
            return torch.sign(x)
        case Function.FLOOR:
            return torch.floor(x)
        case Function.CEIL:
            return torch.ceil(x)
        case Function.ROUND:
            return torch.round(x)
        case Function.SQRT:
            return torch.sqrt(x)
        case Function.RSQRT:
            return torch.rsqrt(x)
        case Function.EXP:
            return torch.exp(x)
        case Function.EXP2:
            return torch.exp2(x)
        case Function.LOG:
            return torch.log(x)
        case Function.LOG2:
            return torch.log2(x)
        case Function.LOG1P:
            return torch.log1p(x)
        case Function.SIN:
            return torch.sin(x)
        case Function.COS:
            return torch.cos(x)
        case Function.TANH:
            return torch.tanh(x)
        case Function.SIGMOID:
            return torch.sigmoid(x)
        case Function.SOFTPLUS:
            return torch.logaddexp(x, torch.zeros_like(x))  # torch's softplus is linear above 20
        case Function.RELU:
            return torch.relu(x)
        case Function.GELU:
            return gelu(x)
        case Function.SILU:
            return silu(x)
        case Function.ERF:
            return torch.erf(x)
        case Function.BIT:
            return bit(x, args[1])
        case _:
            assert_never(function)


def bit(x: Tensor, n: Tensor) -> Tensor:
    """Return bit `n`, clamped to [0, 63] as indices are, of a 64-bit int in two's complement."""
    return (x >> n.clamp(0, _LAST_BIT)) & 1 != 0
