import pytest
import torch
from toy_params import integer, optional, real, tensor, variant

from attnlang.emit.op_schema import Role, make_schema, takes_v
from attnlang.ir.nodes import Kind, Slice, Vector, VectorName

CALL = (
    "float? scale=None, Tensor? scale_t=None, SymInt? q_offset=None, Tensor? q_offset_t=None, "
    "SymInt kv_offset=0, Tensor? kv_offset_t=None, Tensor? kv_lens=None, SymInt? seed=None, "
    "Tensor? seed_t=None, Tensor? kv_indices=None, SymInt kv_block=1, "
    "bool return_lse=False, bool return_max=False, "
    "bool wide_out=False"
)


def parameters(*params) -> str:
    """The part of the schema that the parameters make."""
    text = make_schema(variant(*params), "x").forward
    assert text.startswith("x(Tensor q, Tensor k, Tensor v, ")
    assert text.endswith(f"{CALL}) -> (Tensor, Tensor, Tensor)")
    return text.removeprefix("x(Tensor q, Tensor k, Tensor v, ").partition(CALL)[0]


def test_a_variant_without_parameters():
    assert parameters() == "*, "


def test_parameters_keep_their_order():
    text = parameters(
        tensor("slopes"), real("cap"), integer("n", 3), real("p", 0.5, kind=Kind.BOOL)
    )
    assert text == (
        "Tensor slopes, float cap, SymInt n=3, bool p=True, *, "
        "Tensor? cap_t=None, Tensor? n_t=None, Tensor? p_t=None, "
    )


def test_a_required_one_after_a_default_is_keyword_only():
    text = parameters(real("a", 1.0), tensor("b"), optional("c"), real("d"))
    assert text == (
        "float a=1.0, *, Tensor b, Tensor? c=None, float d, Tensor? a_t=None, Tensor? d_t=None, "
    )


def test_consts_are_no_arguments():
    assert parameters(integer("n", 4, const=True)) == "*, "


def test_companions_make_way_for_parameters():
    schema = make_schema(variant(real("cap", 1.0), real("cap_t", 2.0), tensor("scale_t")), "x")
    assert schema.companions["cap"] == "cap_t_"
    assert schema.companions["cap_t"] == "cap_t_t"
    assert schema.companions["scale"] == "scale_t_"
    names = [a.name for a in schema.arguments]
    assert len(names) == len(set(names))


def test_indices_count_scalars_and_tensors_apart():
    params = (tensor("t0"), real("s0"), integer("c", 1, const=True), optional("t1"), integer("s1"))
    schema = make_schema(variant(*params), "x")
    found = {a.name: (a.role, a.index) for a in schema.arguments}
    assert found["t0"] == (Role.TENSOR, 0)
    assert found["t1"] == (Role.OPTIONAL_TENSOR, 1)
    assert found["s0"] == (Role.REAL, 0)
    assert found["s1"] == (Role.INTEGER, 1)
    assert found["s1_t"] == (Role.INTEGER_TENSOR, 1)


@pytest.mark.parametrize("value", [0.0, -0.0, -1.5, 2.3e-308, 1.7e308, 0.1, 123456789.123456789])
def test_float_defaults_survive_torchs_parser(value):
    schema = make_schema(variant(real("x", value)), "x")
    parsed = torch._C.parse_schema(f"attnlang::{schema.forward}")
    assert parsed.arguments[3].default_value == value


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 5e-324])
def test_a_default_that_torch_cannot_write_is_left_out(value):
    schema = make_schema(variant(real("a", 1.0), real("x", value)), "x")
    parsed = torch._C.parse_schema(f"attnlang::{schema.forward}")
    assert parsed.arguments[4].name == "x"
    assert not parsed.arguments[4].has_default_value()


@pytest.mark.parametrize("value", [0, -7, 2**62, -(2**62)])
def test_int_defaults_survive_torchs_parser(value):
    schema = make_schema(variant(integer("x", value)), "x")
    assert torch._C.parse_schema(f"attnlang::{schema.forward}").arguments[3].default_value == value


@pytest.mark.parametrize(
    "name",
    ["self", "out_", "Tensor", "int", "float", "str", "List", "Any", "Dict", "Optional", "number",
     "NoneType", "Scalar", "Device", "SymInt", "Generator", "print", "Ellipsis", "NotImplemented",
     "dtype", "_x", "__x", "x__", "Stream", "Future", "t", "nan", "inf_", "object", "match"],
)  # fmt: skip
def test_any_name_is_a_name_to_torch(name):
    schema = make_schema(variant(tensor(name), real(f"{name}2", 1.0)), "x")
    for text in (schema.forward, schema.tiles, schema.api):
        assert torch._C.parse_schema(f"attnlang::{text}")
    parsed = torch._C.parse_schema(f"attnlang::{schema.forward}")
    assert parsed.arguments[3].name == schema.names[name]
    assert schema.names[name] in (name, f"{name}_")


def test_a_reserved_name_makes_way_for_a_parameter():
    schema = make_schema(variant(real("NoneType"), real("NoneType_"), integer("n")), "x")
    assert schema.names == {"NoneType": "NoneType__", "NoneType_": "NoneType_", "n": "n"}
    assert schema.companions["NoneType"] == "NoneType_t"
    roles = {a.name: (a.role, a.index) for a in schema.arguments}
    assert roles["NoneType_t"] == (Role.REAL_TENSOR, 0)
    assert roles["n_t"] == (Role.INTEGER_TENSOR, 2)


def test_v_made_from_k_is_no_argument():
    from dataclasses import replace

    from toy_params import SPAN, const

    k = Vector(VectorName.K, span=SPAN)
    made = replace(variant(), v=Slice(k, const(0), const(4), span=SPAN))
    assert not takes_v(made)
    assert takes_v(variant())
    assert make_schema(made, "x").forward.startswith("x(Tensor q, Tensor k, *, float? scale")
