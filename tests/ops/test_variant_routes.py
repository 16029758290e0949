"""A call like one before is answered without its checks, and any other call is still checked."""

import pytest
import torch
from torch.nn import Parameter

import attnlang
from attnlang.ops import arguments, routes

TEXT = """
attention a(cap: float, size: int = 4, slopes: float[HQ] = none, free: float = 1.0):
    require cap > 0, "cap must be positive"
    score = free * soft_cap(score, cap) + (slopes[h] if slopes != none else 0.0)
    mask = sliding_window(size)
"""
Q, K = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 9, 16)
SLOPES = torch.ones(4)


@pytest.fixture(scope="module")
def variant():
    return attnlang.loads(TEXT)


@pytest.fixture
def checks(monkeypatch):
    """How often a call was checked in full."""
    ran = []
    original = arguments.check_qkv

    def counted(*args):
        ran.append(args)
        return original(*args)

    monkeypatch.setattr(arguments, "check_qkv", counted)
    return ran


def test_the_second_call_is_not_checked(variant, checks):
    ways = (  # each way of passing arguments is checked once
        lambda q: variant(q, K, K, 2.0),
        lambda q: variant(q, K, K, cap=2.0),
        lambda q: variant(q, K, K, 2.0, 4),
        lambda q: variant(q, K, K, 2.0, size=4),
    )
    first = [way(Q) for way in ways]
    before = len(checks)
    assert all(torch.equal(way(Q.clone()), first[0]) for way in ways)
    assert len(checks) == before
    variant(Q, K, K, 2.0, q_offset=3)
    variant(Q, K, K, 2.0, q_offset=5)  # any offset in range is as good
    assert len(checks) == before + 1


def test_arguments_reach_the_op_however_they_are_passed(variant):
    wanted = variant.reference(Q, K, K, 2.0, 4, SLOPES, 0.5)
    ways = (
        lambda s, f: variant(Q, K, K, 2.0, 4, s, f),
        lambda s, f: variant(Q, K, K, 2.0, 4, free=f, slopes=s),
        lambda s, f: variant(Q, K, K, slopes=s, free=f, size=4, cap=2.0),
        lambda s, f: variant(
            Q, K, K, free=torch.tensor(f), slopes=s, size=torch.tensor(4), cap=2.0
        ),
    )
    for way in ways:
        way(-SLOPES, 1.5)
        torch.testing.assert_close(way(SLOPES, 0.5), wanted, atol=2e-5, rtol=1e-4)


def test_keywords_are_the_calls_own(variant):
    lens = torch.tensor([9, 4])
    for scale, offset, base in ((1.0, 2, 0), (0.5, 3, 4), (torch.tensor(0.5), 3, 0)):
        for offsets in (offset, torch.tensor([offset, offset + 1])):
            keywords = {"scale": scale, "q_offset": offsets, "kv_offset": base, "kv_lens": lens}
            wanted = variant.reference(Q, K, K, 2.0, return_lse=True, **keywords)
            for _ in range(2):
                found = variant(Q, K, K, 2.0, return_lse=True, **keywords)
                torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
            lens = lens - 1


def test_numbers_of_the_call_are_its_own(variant):
    for cap, size, free, offset in ((2.0, 4, 1.0, 0), (3.0, 4, 0.5, 0), (3.0, 2, 2.0, 1)) * 2:
        keywords = {"cap": cap, "size": size, "free": free, "q_offset": offset, "slopes": SLOPES}
        exact = variant.reference(Q, K, K, **keywords)
        torch.testing.assert_close(variant(Q, K, K, **keywords), exact, atol=2e-5, rtol=1e-4)


WRONG = {
    "q": {"q": Q[0]},
    "dtype": {"q": Q.double()},
    "dtypes": {"k": K.bfloat16()},
    "heads": {"k": K[:, :1].expand(2, 3, 9, 16)},
    "length": {"v": K[:, :, 1:]},
    "head dim": {"k": K[..., 1:]},
    "place": {"q": Q.to("meta")},
    "layout": {"v": K.to_sparse()},
    "no tensor": {"q": [1.0]},
    "require": {"cap": -1.0},
    "kind": {"size": 4.0},
    "bool": {"size": True},
    "range": {"size": 2**63},
    "cap": {"cap": "2"},
    "shape": {"slopes": torch.ones(3)},
    "param dtype": {"slopes": torch.ones(4, dtype=torch.int64)},
    "param place": {"slopes": torch.ones(4, device="meta")},
    "offset": {"q_offset": 2**30},
    "offset kind": {"kv_offset": 1.5},
    "offset shape": {"q_offset": torch.zeros(3, dtype=torch.int64)},
    "lens": {"kv_lens": torch.zeros(3, dtype=torch.int64)},
    "lens kind": {"kv_lens": 5},
    "scale": {"scale": "1"},
    "scale nan": {"scale": float("nan")},
    "scale bool": {"scale": True},
    "seed": {"seed": 1.5},
    "selection": {"kv_indices": torch.zeros(2, 2, 8, 1, dtype=torch.int64)},
    "block": {"kv_block": 0},
    "block bool": {"kv_block": True},
    "unknown": {"capp": 2.0},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_refused_after_a_good_one_and_again(variant, wrong):
    good = {"q": Q, "k": K, "v": K, "cap": 2.0, "slopes": SLOPES, "q_offset": 0, "scale": 1.0}
    good |= {"kv_lens": torch.tensor([9, 9]), "kv_block": 1}
    variant(**good)
    variant(**good)
    for _ in range(2):
        with pytest.raises(attnlang.CallError):
            variant(**(good | wrong))


def test_lse_is_refused_without_a_softmax_after_a_call_that_asked_for_none():
    variant = attnlang.loads("attention a:\n weights = sigmoid(score)")
    for _ in range(2):
        variant(Q, K, K)
        with pytest.raises(attnlang.CallError):
            variant(Q, K, K, return_lse=True)


def test_gradients_count_only_where_they_are_recorded(variant):
    q = Q.clone().requires_grad_()
    with torch.no_grad():
        variant(q, K, K, 2.0)
        variant(q, K, K, 2.0)
    assert variant(q, K, K, 2.0).requires_grad
    assert variant(Q, K, K, 2.0, slopes=Parameter(SLOPES)).requires_grad


def test_constants_have_an_op_each():
    variant = attnlang.loads("attention a(const n: int = 2):\n mask = kv_idx % n == 0")
    for n in (2, 3, 2, 3):
        exact = variant.reference(Q, K, K, n=n)
        torch.testing.assert_close(variant(Q, K, K, n=n), exact, atol=2e-5, rtol=1e-4)


def test_routes_are_bounded(variant, monkeypatch):
    monkeypatch.setattr(routes, "_MAX_ROUTES", 4)
    for length in range(1, 9):
        variant(Q[:, :, :length], K, K, 2.0)
    assert len(variant.routes._routes) <= 4


@pytest.fixture(scope="module")
def bare():
    """A variant that is called with vectors alone."""
    return attnlang.loads("attention bare:\n mask = causal")


def test_the_second_call_of_vectors_alone_is_not_checked(bare, checks):
    wanted = bare.reference(Q, K, K)
    for q in (Q, Q.clone(), Parameter(Q), Q.transpose(1, 2).contiguous().transpose(1, 2)):
        with torch.no_grad():
            torch.testing.assert_close(bare(q, K, K), wanted, atol=2e-5, rtol=1e-4)
    assert len(checks) <= 1
    short = Q[:, :, :5]
    torch.testing.assert_close(bare(short, K, K), bare.reference(short, K, K), atol=2e-5, rtol=1e-4)
    assert len(checks) <= 2


BARE_WRONG = {
    "a list": {"q": [1.0]},
    "rank": {"q": Q[0]},
    "double": {"q": Q.double(), "k": K.double(), "v": K.double()},
    "half q": {"q": Q.half()},
    "half v": {"v": K.half()},
    "heads": {"k": K[:, :1].expand(2, 3, 9, 16), "v": K[:, :1].expand(2, 3, 9, 16)},
    "length": {"v": K[:, :, 1:]},
    "head dim": {"k": K[..., 1:]},
    "q elsewhere": {"q": Q.to("meta")},
    "k elsewhere": {"k": K.to("meta")},
    "v elsewhere": {"v": K.to("meta")},
    "layout of q": {"q": Q.to_sparse()},
    "layout of v": {"v": K.to_sparse()},
    "no v": {"v": None},
    "true for 1": {"kv_block": True},
    "false for 0": {"kv_offset": False},
    "a parameter": {"cap": 2.0},
}


@pytest.mark.parametrize("wrong", BARE_WRONG.values(), ids=BARE_WRONG)
def test_a_wrong_call_is_refused_after_one_of_vectors_alone(bare, wrong):
    good = {"q": Q, "k": K, "v": K}
    bare(**good)
    bare(**good)
    for _ in range(2):
        with pytest.raises(attnlang.CallError):
            bare(**(good | wrong))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of forward mode
def test_what_else_a_call_is_made_in_is_seen_after_one_of_vectors_alone(bare):
    bare(Q, K, K)
    plain = bare(Q, K, K)
    for at in range(3):
        vectors = [x.clone().requires_grad_(i == at) for i, x in enumerate((Q, K, K))]
        assert bare(*vectors).requires_grad
        with torch.no_grad():
            assert not bare(*vectors).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert bare(Q, K, K).dtype == torch.bfloat16
    with pytest.raises(attnlang.CallError, match=r"torch\.vmap"):
        torch.vmap(bare)(Q[:, None], K[:, None], K[:, None])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(Q, torch.ones_like(Q))
        with pytest.raises(attnlang.CallError, match="dual"):
            bare(dual, K, K)
    with pytest.raises(attnlang.CallError, match=r"torch\.func"):
        torch.func.grad(lambda q: bare(q, K, K).sum())(Q)
    assert torch.equal(bare(Q, K, K), plain)


def test_vectors_alone_draw_dropout_anew():
    variant = attnlang.loads("attention a(p: float = 0.5):\n weights = softmax(score) * dropout(p)")
    torch.manual_seed(0)
    first, second = variant(Q, K, K), variant(Q, K, K)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(variant(Q, K, K), first)
    assert torch.equal(variant(Q, K, K), second)


SIGNED = """
attention signed(c: float = 0.0):
    require c < 2.0
    score = score if 1.0 / c > 0.0 else -score
"""


def test_a_zero_has_a_sign():
    variant = attnlang.loads(SIGNED)
    plus, minus = (variant.reference(Q, K, K, c=c) for c in (1.0, -1.0))
    for c, wanted in ((0.0, plus), (-0.0, minus)) * 2:
        torch.testing.assert_close(variant(Q, K, K, c=c), wanted, atol=2e-5, rtol=1e-4)


def test_a_constant_of_zero_has_a_sign():
    variant = attnlang.loads(SIGNED.replace("c:", "const c:"))
    names = {variant.specialised((("c", c),), frozenset()).name for c in (0.0, -0.0, 0.0)}
    assert len(names) == 2


def test_a_require_reads_the_sign_of_a_zero():
    variant = attnlang.loads(SIGNED.replace("c < 2.0", "1.0 / c > 0.0"))
    for _ in range(2):
        variant.check_requires({"c": 0.0}, {})
        with pytest.raises(attnlang.CallError):
            variant.check_requires({"c": -0.0}, {})


def nested(x, layout):
    return torch.nested.nested_tensor(list(x), layout=layout)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_a_nested_tensor_is_refused(bare, variant, name, layout):
    good = {"q": Q, "k": K, "v": K}
    wrong = good | {name: nested(good[name], layout)}
    bare(**good)
    for call in (bare, bare.reference, lambda **x: variant(**x, cap=2.0)):
        with pytest.raises(attnlang.CallError, match=f"`{name}`: .*found a nested one"):
            call(**wrong)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("name", ["slopes", "kv_lens", "scale", "cap", "kv_indices", "q_offset"])
def test_a_nested_parameter_is_refused(variant, name, layout):
    wrong = {"cap": 2.0, name: nested((SLOPES, SLOPES), layout)}
    for call in (variant, variant.reference):
        with pytest.raises(attnlang.CallError, match=f"`{name}`: .*found a nested one"):
            call(Q, K, K, **wrong)
