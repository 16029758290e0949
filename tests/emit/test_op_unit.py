import itertools
import re

import pytest
from toy_params import SPAN, bound, const, integer, optional, real, size, tensor, variant

from attnlang.emit.op_schema import make_schema
from attnlang.emit.op_unit import binding_unit, c_string, op_context, op_sources, print_size
from attnlang.ir.nodes import INT, Binary, BinaryOp, Coord, CoordName, Unary, UnaryOp
from attnlang.jit.build import build
from attnlang.jit.closure import include_closure
from attnlang.jit.loader import load
from attnlang.jit.recipe import include_roots
from attnlang.jit.units import Sources, Target, Unit


def binary(op, left, right):
    return Binary(op, left, right, INT, span=SPAN)


def context(*params, sizes=()):
    toy = variant(*params, sizes=sizes)
    return op_context(toy, make_schema(toy, "toy_1"))


def test_sizes_are_solved_and_shapes_compared():
    dims = (size("B"), binary(BinaryOp.ADD, size("R"), const(2)))
    made = context(
        optional("t", *dims),
        tensor("u", size("R"), size("KV")),
        sizes=(bound("R", "t", 1, 1, const(2)), bound("R", "u", 0, 1, const(0))),
    )
    first, second = made.sizes
    assert (first.slot, first.tensor, first.axis, first.offset) == (0, 0, 1, "int64_t{2}")
    assert (second.slot, second.tensor, second.axis) == (0, 1, 0)
    assert [(c.to, c.origin) for c in made.copies] == [(1, 0)]
    assert [(e.tensor, e.axis, e.size) for e in made.extents] == [
        (0, 0, "e.B"),
        (0, 1, "(e.bound[0] + int64_t{2})"),
        (1, 0, "e.bound[0]"),
        (1, 1, "e.KV"),
    ]


def test_counts_leave_consts_out():
    made = context(integer("n", 4, const=True), real("a", 1.0), tensor("t"))
    assert (made.scalar_count, made.tensor_count, made.size_count) == (1, 1, 0)
    assert made.argument_count == len(made.arguments)


def test_the_unit_is_the_same_for_the_same_variant():
    assert op_sources(variant(real("a")), "x") == op_sources(variant(real("a")), "x")


def test_the_unit_of_an_op_holds_nothing_of_torch():
    """Else every variant would wait for torch's headers; the binding reads them once a cache."""
    (op,) = op_sources(variant(real("a")), "x").units
    reached = include_closure([op.text], include_roots())
    assert not op.torch
    assert {"attnlang/host/op.h", "attnlang/host/call.h"} <= {name for name, _ in reached}
    assert not [name for name, text in reached if "torch/csrc" in text]
    assert binding_unit().torch


def test_no_name_of_the_user_reaches_the_unit_but_in_a_string():
    sizes = (bound("new_size", "operator", 0, 1, const(0)),)
    params = (real("private"), tensor("operator", size("new_size")))
    text = op_sources(variant(*params, sizes=sizes), "x")
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text.units[0].text)
    assert "private" not in outside
    assert "operator" not in outside
    assert "new_size" not in outside


def test_a_dimension_holds_sizes_alone():
    with pytest.raises(TypeError, match="may not hold a Coord"):
        print_size(Coord(CoordName.B, span=SPAN), {})


@pytest.mark.parametrize(
    "text", ['"; system("x"); "', "a\\b", "ümlaut", "line\nbreak", "\0", "??/"]
)
def test_c_strings_come_through_a_compiler(text, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path))
    import ctypes

    code = f'extern "C" const char* text() {{ return {c_string(text)}; }}\n'
    library = load(build(Sources("text", Target.CPU, (Unit("a.cpp", code),), ("text",))))
    library.text.restype = ctypes.c_void_p
    assert ctypes.string_at(library.text(), len(text.encode())) == text.encode()


PYTHON = {
    BinaryOp.ADD: lambda a, b: a + b,
    BinaryOp.SUB: lambda a, b: a - b,
    BinaryOp.MUL: lambda a, b: a * b,
    BinaryOp.FLOORDIV: lambda a, b: a // b if b else 0,
    BinaryOp.MOD: lambda a, b: a % b if b else 0,
}


def test_size_arithmetic_is_pythons(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path))
    cases = []
    for op, a, b in itertools.product(PYTHON, (-7, -1, 0, 5), (-3, 0, 1, 4)):
        expr = Unary(UnaryOp.NEG, binary(op, size("R"), binary(BinaryOp.ADD, size("S"), const(1))),
                     INT, span=SPAN)  # fmt: skip
        cases.append((print_size(expr, {"R": 0, "S": 1}), a, b, -PYTHON[op](a, b + 1)))
    lines = [
        f"  if (e = E{{{{{a}, {b}}}}}, {text} != {expected}) return {i + 1};\n"
        for i, (text, a, b, expected) in enumerate(cases)
    ]
    code = (
        '#include "attnlang/host/op_extents.h"\nusing namespace attnlang::op;\n'
        "struct E { int64_t bound[2]; };\n"
        'extern "C" int first_wrong() {\n  E e;\n' + "".join(lines) + "  return 0;\n}\n"
    )
    unit = Unit("sizes.cpp", code)
    wrong = load(build(Sources("sizes", Target.CPU, (unit,), ("first_wrong",)))).first_wrong()
    assert wrong == 0, cases[wrong - 1]
