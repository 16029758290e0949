"""Operators and functions by value: LANGUAGE section 5, against Python's own arithmetic."""

import math

import pytest
import torch

from attnlang.ir.nodes import BinaryOp, Function
from attnlang.reference.functions import binary, bit, call


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("x", range(-7, 8))
@pytest.mark.parametrize("y", [-3, -2, -1, 1, 2, 3])
def test_floor_division_is_pythons(x, y):
    a, b = torch.tensor(x), torch.tensor(y)
    assert int(binary(BinaryOp.FLOORDIV, a, b)) == x // y
    assert int(binary(BinaryOp.MOD, a, b)) == x % y


def test_division_by_zero_gives_zero():
    a, zero = torch.tensor([5, -5]), torch.tensor(0)
    assert binary(BinaryOp.FLOORDIV, a, zero).tolist() == [0, 0]
    assert binary(BinaryOp.MOD, a, zero).tolist() == [0, 0]


@pytest.mark.parametrize("base", [-2.0, -0.5, 0.5, 3.0])
@pytest.mark.parametrize("exponent", [-3, -1, 0, 1, 2, 5])
def test_int_exponents_are_exact(base, exponent):
    x = doubles(base)
    assert float(binary(BinaryOp.POW, x, torch.tensor(exponent))) == base**exponent
    assert float(binary(BinaryOp.POW, x, doubles(exponent))) == base**exponent


def test_powers_of_zero_and_of_ints():
    assert float(binary(BinaryOp.POW, doubles(0.0), torch.tensor(0))) == 1.0
    assert int(binary(BinaryOp.POW, torch.tensor(0), torch.tensor(0))) == 1
    assert int(binary(BinaryOp.POW, torch.tensor(-3), torch.tensor(3))) == -27


def test_round_half_to_even():
    x = doubles(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)
    assert call(Function.ROUND, (x,)).tolist() == [-2.0, -2.0, -0.0, 0.0, 2.0, 2.0]


MATH = {
    Function.SQRT: math.sqrt,
    Function.RSQRT: lambda x: 1 / math.sqrt(x),
    Function.EXP: math.exp,
    Function.EXP2: lambda x: 2.0**x,
    Function.LOG: math.log,
    Function.LOG2: math.log2,
    Function.LOG1P: math.log1p,
    Function.SIN: math.sin,
    Function.COS: math.cos,
    Function.TANH: math.tanh,
    Function.SIGMOID: lambda x: 1 / (1 + math.exp(-x)),
    Function.SOFTPLUS: lambda x: math.log1p(math.exp(x)),
    Function.RELU: lambda x: max(x, 0.0),
    Function.GELU: lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    Function.SILU: lambda x: x / (1 + math.exp(-x)),
    Function.ERF: math.erf,
    Function.ABS: abs,
    Function.SIGN: lambda x: math.copysign(1.0, x),
    Function.FLOOR: math.floor,
    Function.CEIL: math.ceil,
}


@pytest.mark.parametrize("function", MATH)
@pytest.mark.parametrize("x", [0.3, 1.7, 25.2])
def test_functions_of_one_argument(function, x):
    got = float(call(function, (doubles(x),)))
    assert got == pytest.approx(MATH[function](x), rel=1e-14)


def test_every_function_is_tested():
    several = {Function.MIN, Function.MAX, Function.CLAMP, Function.BIT, Function.ROUND}
    assert set(Function) == set(MATH) | several


def test_softplus_keeps_its_precision_above_twenty():
    assert float(call(Function.SOFTPLUS, (doubles(30.0),))) - 30.0 == pytest.approx(
        math.log1p(math.exp(-30.0)), rel=0.05
    )


def test_min_max_clamp_of_ints_and_of_several():
    a, b, c = (torch.tensor(v) for v in ([1, 9], [5, 2], [3, 3]))
    assert call(Function.MIN, (a, b, c)).tolist() == [1, 2]
    assert call(Function.MAX, (a, b, c)).tolist() == [5, 9]
    clamped = call(Function.CLAMP, (torch.tensor([-5, 1, 9]), torch.tensor(0), torch.tensor(4)))
    assert clamped.tolist() == [0, 1, 4]
    assert clamped.dtype == torch.int64


def test_bits_of_ints():
    n = torch.arange(8)
    assert bit(torch.tensor(0b10110), n).tolist() == [False, True, True, False, True] + [False] * 3
    assert bit(torch.tensor(-1), torch.tensor([0, 31, 63])).tolist() == [True] * 3
    assert bit(torch.tensor(1), torch.tensor([-4, 64, 1000])).tolist() == [True, False, False]


def test_ties_of_max_share_the_gradient():
    a = doubles(2.0).requires_grad_()
    b = doubles(2.0).requires_grad_()
    call(Function.MAX, (a, b)).sum().backward()
    assert a.grad.item() == b.grad.item() == 0.5


@pytest.mark.parametrize("function", [Function.SIGN, Function.FLOOR, Function.CEIL, Function.ROUND])
def test_steps_have_no_gradient(function):
    x = doubles(0.3, 1.5, -2.0).requires_grad_()
    call(function, (x,)).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]
