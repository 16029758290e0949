"""Gradients in compiled graphs: `torch.compile` both ways, `torch.export`, checkpointing in one."""

from __future__ import annotations

import pytest
import torch
from support import EXAMPLES, sample
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import attnlang

SPEC = """
attention biased(cap: float = 3.0, table: float[HQ, 2 * R + 1]):
    require cap > 0, "cap must be positive"
    score = cap * tanh(score / cap) + table[h, clamp(kv_idx - q_idx + R, 0, 2 * R)]
    mask = causal
"""
DROPOUT = "attention d(p: float = 0.4):\n    weights = softmax(score) * dropout(p)\n"

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def biased() -> attnlang.Variant:
    return attnlang.loads(SPEC)


def inputs(queries: int = 37, keys: int = 70) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(queries)
    sizes = ((4, queries), (2, keys), (2, keys))
    vectors = (torch.randn(2, h, n, 16, generator=g) for h, n in sizes)
    return tuple(t.requires_grad_() for t in (*vectors, torch.randn(4, 9, generator=g)))


def same_gradients(function, compiled, leaves) -> bool:
    plain = [t.detach().clone().requires_grad_() for t in leaves]
    compiled(*leaves).square().sum().backward()
    function(*plain).square().sum().backward()
    return all(torch.equal(a.grad, b.grad) for a, b in zip(leaves, plain, strict=True))


@pytest.mark.parametrize(
    "backend", sample(["eager", "aot_eager", "inductor"], "eager", "aot_eager")
)
def test_one_graph_forward_and_backward(biased, backend):
    def function(q, k, v, table):
        out, lse = biased(q * 2, k, v, table=table, return_lse=True)
        return out.sum(3) + lse

    compiled = torch.compile(function, backend=backend, fullgraph=True)
    leaves, plain = inputs(), inputs()
    compiled(*leaves).square().sum().backward()
    function(*plain).square().sum().backward()
    for got, want in zip(leaves, plain, strict=True):
        torch.testing.assert_close(got.grad, want.grad)


def test_sizes_and_numbers_that_change_compile_once(biased):
    def function(q, k, v, table):
        return biased(q * 2, k, v, table=table)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    assert same_gradients(function, compiled, inputs())
    frames = counter.frame_count
    assert same_gradients(function, compiled, inputs(21, 40))
    assert same_gradients(function, compiled, inputs(9, 90))
    assert counter.frame_count == frames


def test_transforms_and_an_out_expression_are_part_of_the_graph():
    variant = attnlang.load(EXAMPLES / "qk_norm.attn")

    def function(q, k, v, a, b):
        return variant(q, k, v, q_weight=a, k_weight=b)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    g = torch.Generator().manual_seed(1)
    vectors = [torch.randn(1, 2, n, 16, generator=g) for n in (19, 30, 30)]
    weights = [torch.rand(16, generator=g) + 0.5 for _ in range(2)]
    leaves = [t.requires_grad_() for t in (*vectors, *weights)]
    plain = [t.detach().clone().requires_grad_() for t in leaves]
    compiled(*leaves).square().sum().backward()
    function(*plain).square().sum().backward()
    for got, want in zip(leaves, plain, strict=True):
        torch.testing.assert_close(got.grad, want.grad)


def test_columns_that_nobody_sees_are_hidden_in_a_graph_too():
    spec = (
        "attention h(real: bool[B, KV]):\n k = l2_norm(k)\n mask = real[b, kv_col] and kv_idx > 2\n"
    )
    variant = attnlang.loads(spec)
    g = torch.Generator().manual_seed(1)
    real = torch.rand(2, 23, generator=g) < 0.6
    vectors = [torch.randn(2, 2, 23, 16, generator=g) for _ in range(3)]
    vectors[1][~real[:, None].expand(2, 2, 23)] = torch.nan
    leaves = [t.clone().requires_grad_() for t in vectors]

    def function(q, k, v):
        return variant(q, k, v, real=real)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert same_gradients(function, compiled, leaves)
    assert not any(t.grad.isnan().any() for t in leaves)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_checkpoint_in_a_graph_replays_its_dropout(backend):
    variant = attnlang.loads(DROPOUT)

    def step(q, k, v):
        return torch.utils.checkpoint.checkpoint(variant, q, k, v, use_reentrant=False)

    compiled = torch.compile(step, backend=backend, fullgraph=True)
    q, k, v = (torch.randn(1, 2, 40, 16, requires_grad=True) for _ in range(3))
    outs = []
    for _ in range(2):
        v.grad = None
        out = compiled(q, k, v)
        grad = torch.randn_like(out)
        out.backward(grad)
        outs.append(out.detach())
        # out is linear in v: both sums are of weight * value * grad over all elements.
        torch.testing.assert_close((outs[-1] * grad).sum(), (v.detach() * v.grad).sum())
    assert not torch.equal(*outs)


class Layer(torch.nn.Module):
    """A layer whose exported graph holds a call that a gradient goes through."""

    def __init__(self, variant: attnlang.Variant) -> None:
        super().__init__()
        self.variant = variant
        self.linear = torch.nn.Linear(32, 32)
        self.table = torch.nn.Parameter(torch.randn(2, 9))

    def forward(self, x: Tensor) -> Tensor:
        q = self.linear(x).unflatten(2, (2, 16)).transpose(1, 2)
        return self.variant(q, q, q, table=self.table).transpose(1, 2).flatten(2)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_exported_layer_can_be_trained(biased):
    layer, x = Layer(biased), torch.randn(2, 20, 32)
    lengths = {"x": {1: torch.export.Dim("n", min=2, max=64)}}
    exported = torch.export.export(layer, (x,), dynamic_shapes=lengths)
    module = exported.module()
    other = torch.randn(2, 9, 32)
    assert torch.equal(module(other), layer(other))
    module(x).square().sum().backward()
    layer(x).square().sum().backward()
    grads = dict(layer.named_parameters())
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name].grad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_package_of_ahead_of_time_inductor_holds_a_call(biased, tmp_path):
    layer, x = Layer(biased), torch.randn(2, 20, 32)
    lengths = {"x": {1: torch.export.Dim("n", min=2, max=64)}}
    with torch.no_grad():
        exported = torch.export.export(layer, (x,), dynamic_shapes=lengths)
    path = torch._inductor.aoti_compile_and_package(
        exported, package_path=str(tmp_path / "layer.pt2")
    )
    loaded = torch._inductor.aoti_load_package(path)
    other = torch.randn(2, 9, 32)
    torch.testing.assert_close(loaded(other), layer(other).detach())
