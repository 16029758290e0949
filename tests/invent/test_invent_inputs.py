"""Invented inputs: what the spec asks for, and what its use asks for."""

import pytest
import torch

from attnlang.cli.cases import make_case
from attnlang.cli.errors import InputError
from attnlang.cli.settings import parse_settings, settings_text
from attnlang.cli.shapes import parse_shape, shape_text
from attnlang.invent.inputs import invent, reads_fit
from attnlang.invent.scalars import Request, fit_shape
from attnlang.invent.settings import Settings

NONE = Settings({}, {}, {})


def request(shape="2,4,2,33,65,16", settings=NONE, **kwargs):
    return Request(parse_shape(shape), torch.float32, 0, settings, **kwargs)


def all_rows(call):
    return torch.arange(call.shape.q)


def test_shapes_and_seeds(variant):
    full = variant("attention full:")
    call = invent(full, request("2,4,2,33,65,16,8"))
    assert call.q.shape == (2, 4, 33, 16)
    assert call.k.shape == (2, 2, 65, 16)
    assert call.v.shape == (2, 2, 65, 8)
    again = invent(full, request("2,4,2,33,65,16,8"))
    assert torch.equal(call.q, again.q)
    assert not torch.equal(call.q, call.q.flip(0))


def test_segments_are_sorted_and_agree_between_queries_and_keys(variant):
    packed = variant(
        "attention a(dq: int[B, Q], dk: int[B, KV]):\n mask = dq[b, q_row] == dk[b, kv_col]"
    )
    call = invent(packed, request("3,1,1,40,100,16"))
    dq, dk = call.params["dq"], call.params["dk"]
    assert (dk.diff(dim=1) >= 0).all()
    assert dk.max() > 0
    assert torch.equal(dq, dk[:, 60:])


def test_lengths_are_inside_the_sequence(variant):
    padding = variant("attention a(n: int[B]):\n mask = kv_idx < n[b]")
    lengths = invent(padding, request("50,1,1,3,7,16")).params["n"]
    assert lengths.min() >= 1
    assert lengths.max() <= 7
    assert len(lengths.unique()) > 1


def test_an_index_is_inside_what_it_indexes(variant):
    graph = variant(
        "attention a(bias: float[N], path: int[B, Q, KV]):\n"
        " score = score + bias[path[b, q_row, kv_col]]"
    )
    call = invent(graph, request())
    assert call.params["path"].max() < call.params["bias"].shape[0]
    assert reads_fit(graph, call, all_rows(call))


def test_a_bound_size_is_large_enough_for_its_reads(variant):
    blocks = variant("attention a(table: bool[NQ, NK]):\n mask = table[q_row // 16, kv_col // 16]")
    call = invent(blocks, request("1,1,1,300,500,16"))
    rows, columns = call.params["table"].shape
    assert rows >= 19
    assert columns >= 32


def test_a_bound_size_can_be_set(variant):
    table = variant(
        "attention a(t: float[2 * R + 1]):\n score = score + t[clamp(kv_idx - q_idx + R, 0, 2 * R)]"
    )
    settings = parse_settings(table, ["R=5"])
    assert invent(table, request(settings=settings)).params["t"].shape == (11,)


def test_requires_about_bound_sizes_hold(variant):
    table = variant("attention a(t: float[N]):\n require N == 4\n score = score + t[kv_col % N]")
    assert invent(table, request()).params["t"].shape == (4,)


def test_scalars_without_a_default_satisfy_the_requires(variant):
    capped = variant(
        "attention a(cap: float, n: int):\n"
        " require cap > 5\n require n % 2 == 0 and n > 3\n"
        " score = soft_cap(score, cap)\n mask = kv_idx < n"
    )
    call = invent(capped, request())
    assert call.params["cap"] > 5
    assert call.params["n"] % 2 == 0
    assert call.params["n"] > 3


def test_a_setting_that_breaks_a_require_is_named(variant):
    capped = variant(
        'attention a(cap: float = 1.0):\n require cap > 0, "cap must be positive"\n'
        " score = soft_cap(score, cap)"
    )
    settings = parse_settings(capped, ["cap=-2"])
    with pytest.raises(InputError, match=r"cap must be positive.*cap = -2"):
        invent(capped, request(settings=settings))


def test_the_default_shape_gives_way_to_requires(variant):
    square = variant("attention a:\n require Q == KV and HQ == HKV\n mask = causal")
    shape = fit_shape(square, parse_shape("1,8,2,10,20,16"), NONE)
    assert (shape.q, shape.hq) == (shape.kv, shape.hkv)
    invent(square, Request(shape, torch.float32, 0, NONE))


def test_optional_tensors_are_absent_unless_asked_for(variant):
    biased = variant(
        "attention a(bias: float[HQ] = none):\n score = score + bias[h] if bias != none else score"
    )
    assert invent(biased, request()).params["bias"] is None
    asked = request(optional=frozenset({"bias"}))
    assert invent(biased, asked).params["bias"].shape == (4,)
    filled = request(settings=parse_settings(biased, ["bias=0.5"]))
    assert (invent(biased, filled).params["bias"] == 0.5).all()


def test_settings_have_the_kind_of_their_parameter(variant):
    spec = variant(
        "attention a(x: float, n: int, on: bool):\n score = score * x\n mask = kv_idx < n or on"
    )
    settings = parse_settings(spec, ["x=3", "n = 4", "on=false"])
    assert settings.scalars == {"x": 3.0, "n": 4, "on": False}
    assert settings_text(settings.scalars) == "--set x=3.0 --set n=4 --set on=false"


@pytest.mark.parametrize("text", ["n", "n=1.5", "n=", "on=maybe", "missing=1"])
def test_a_wrong_setting_is_named(variant, text):
    spec = variant("attention a(n: int, on: bool):\n mask = kv_idx < n or on")
    with pytest.raises(InputError, match=r"^--set: "):
        parse_settings(spec, [text])


@pytest.mark.parametrize(
    "text", ["1,2", "a,b,c,d,e,f", "1,3,2,4,4,8", "1,2,0,4,4,8", "1,1,1,-1,1,1"]
)
def test_a_wrong_shape_is_named(text):
    with pytest.raises(InputError, match=r"^--shape: "):
        parse_shape(text)


@pytest.mark.parametrize("text", ["1,4,2,8,16,32", "1,4,2,8,16,32,64"])
def test_shapes_print_as_they_are_typed(text):
    assert shape_text(parse_shape(text)) == text


def test_a_case_depends_on_its_number_alone(variant):
    window = variant("attention w(n: int = 4096):\n mask = sliding_window(n)")
    first, again = make_case(window, 0, 3), make_case(window, 0, 3)
    assert torch.equal(first.q, again.q)
    assert first.scalars == again.scalars
    assert first.q.stride() == again.q.stride()


def test_cases_differ_and_reach_into_short_sequences(variant):
    window = variant("attention w(n: int = 4096):\n require n > 0\n mask = sliding_window(n)")
    cases = [make_case(window, 0, number) for number in range(20)]
    assert len({c.shape for c in cases}) > 5
    assert len({c.q.dtype for c in cases}) == 3
    assert any(c.params["n"] < c.shape.kv for c in cases)
    assert any(not c.k.is_contiguous() for c in cases)
    assert any("kv_lens" in c.options for c in cases)
    assert any("q_offset" in c.options for c in cases)
