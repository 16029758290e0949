"""How calls behave on a GPU: streams, CUDA graphs, compiled graphs, tensors of two places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import attnlang

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SPEC = """\
attention capped(gain: float[HQ], cap: float = 30.0, window_size: int = 50):
    score = gain[h] * cap * tanh(score / cap)
    mask = kv_idx <= q_idx and q_idx - kv_idx < window_size
"""


def _inputs(seed: int = 0, queries: int = 333) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    shapes = ((2, 4, queries, 64), (2, 2, 333, 64), (2, 2, 333, 64))
    return tuple(torch.randn(s, generator=g).bfloat16().cuda() for s in shapes)


def _gain() -> Tensor:
    return torch.linspace(0.5, 1.5, 4).cuda()


def _expected(variant: attnlang.Variant, vectors: tuple[Tensor, ...], **call: object) -> Tensor:
    host = {n: x.cpu() if isinstance(x, Tensor) else x for n, x in call.items()}
    return variant.reference(*(x.cpu() for x in vectors), dtype=torch.float64, **host)


def _assert_close(got: Tensor, want: Tensor) -> None:
    error = (got.cpu().double() - want).abs().max().item()
    assert error < 0.02, error


@pytest.mark.parametrize("queries", [1, 333])
def test_a_captured_graph_sees_later_values(queries: int) -> None:
    variant = attnlang.loads(SPEC)
    vectors = _inputs(queries=queries)
    cap, window = torch.tensor(30.0).cuda(), torch.tensor(50).cuda()
    lens = torch.tensor([333, 200], device="cuda")
    gain = _gain()

    def call() -> Tensor:
        return variant(*vectors, gain=gain, cap=cap, window_size=window, kv_lens=lens)

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    for number in range(3):
        for x, fresh in zip(vectors, _inputs(number + 1, queries), strict=True):
            x.copy_(fresh)
        cap.fill_(5.0 + 10 * number)
        window.fill_(7 + 100 * number)
        lens.copy_(torch.tensor([333 - number, 100 * number]))
        out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        want = _expected(
            variant, vectors, gain=gain, cap=cap.item(), window_size=int(window.item()),
            kv_lens=lens,
        )  # fmt: skip
        _assert_close(out, want)


def test_a_call_waits_for_its_own_stream_alone() -> None:
    variant = attnlang.loads(SPEC)
    vectors, gain = _inputs(), _gain()
    want = _expected(variant, vectors, gain=gain)
    variant(*vectors, gain=gain)  # built before anything is timed
    stream = torch.cuda.Stream()
    late = tuple(torch.full_like(x, torch.nan) for x in vectors)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for x, value in zip(late, vectors, strict=True):
            x.copy_(value)
        out = variant(*late, gain=gain)
    assert not stream.query(), "the call waited for its stream"
    stream.synchronize()
    _assert_close(out, want)


def test_a_number_may_lie_on_the_cpu() -> None:
    variant = attnlang.loads(SPEC)
    vectors, gain = _inputs(), _gain()
    want = variant(*vectors, gain=gain, cap=12.0)
    assert torch.equal(variant(*vectors, gain=gain, cap=torch.tensor(12.0)), want)


def test_offsets_and_lengths_may_lie_on_the_cpu() -> None:
    variant = attnlang.loads(SPEC)
    vectors, gain = _inputs(queries=40), _gain()
    for n in (0, 50):  # the second call is like the first, with other values
        call = {
            "q_offset": torch.tensor([250 + n, 100]),
            "kv_offset": torch.tensor([0, n]),
            "kv_lens": torch.tensor([333, 200 - n]),
        }
        there = {name: x.cuda() for name, x in call.items()}
        assert torch.equal(
            variant(*vectors, gain=gain, **call), variant(*vectors, gain=gain, **there)
        )
    packed = tuple(x.transpose(1, 2).flatten(0, 1) for x in vectors)
    indptr = (torch.tensor([0, 40, 80]), torch.tensor([0, 333, 666]))
    for n in (0, 50):
        call = {"q_offset": torch.tensor([250 + n, 100]), "kv_offset": torch.tensor([0, n])}
        there = {name: x.cuda() for name, x in call.items()}
        got = variant.ragged(*packed, *indptr, gain=gain, **call)
        assert torch.equal(got, variant.ragged(*packed, *indptr, gain=gain, **there))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_graph_calls_it() -> None:
    variant = attnlang.loads(SPEC)
    vectors, gain = _inputs(), _gain()
    compiled = torch.compile(lambda q, k, v: variant(q, k, v, gain=gain) * 2, fullgraph=True)
    assert torch.equal(compiled(*vectors), variant(*vectors, gain=gain) * 2)


def test_tensors_of_two_places_are_an_error() -> None:
    variant = attnlang.loads(SPEC)
    q, k, v = _inputs()
    gain = _gain()
    with pytest.raises(attnlang.CallError, match="a tensor on q's device"):
        variant(q, k.cpu(), v, gain=gain)
    with pytest.raises(RuntimeError, match="q's device"):
        variant.specialised((), frozenset({"gain"})).op.overload(q, k, v.cpu(), gain=gain)
