"""Domains: cutting, selecting and spreading are consistent with dense masking."""

import pytest
import torch

from attnlang.reference.domain import Axis, box, columns_of, keys_of, rows_of

SHAPE = (2, 4, 3, 5)


def whole():
    return box(*SHAPE, group=2, device=torch.device("cpu"))


def masks():
    g = torch.Generator().manual_seed(0)
    for shape in [
        (2, 4, 3, 5),
        (1, 1, 3, 5),
        (2, 1, 1, 5),
        (1, 4, 1, 1),
        (1, 1, 1, 5),
        (2, 1, 3, 1),
    ]:
        yield torch.rand(shape, generator=g) < 0.5


@pytest.mark.parametrize("mask", list(masks()), ids=lambda m: "x".join(map(str, m.shape)))
def test_coordinates_are_those_of_the_true_elements(mask):
    domain = whole().where(mask)
    want = set(map(tuple, mask.expand(SHAPE).nonzero().tolist()))
    axes = (Axis.B, Axis.H, Axis.Q, Axis.KV)
    columns = [domain.coords[a].expand(domain.shape).flatten().tolist() for a in axes]
    got = list(zip(*columns, strict=True))
    assert len(got) == len(set(got))
    assert set(got) == want


@pytest.mark.parametrize("mask", list(masks()), ids=lambda m: "x".join(map(str, m.shape)))
@pytest.mark.parametrize(
    "value_shape", [(2, 4, 3, 5), (1, 4, 1, 5), (2, 1, 3, 1), (1, 1, 1, 1), ()]
)
@pytest.mark.parametrize("vector", [False, True])
def test_spread_undoes_select(mask, value_shape, vector):
    value = torch.randn((*value_shape, 6) if vector else value_shape)
    domain = whole().where(mask)
    back = domain.spread(domain.select(value, vector=vector), -7.0, vector=vector)
    full = (*SHAPE, 6) if vector else SHAPE
    chosen = (mask.unsqueeze(-1) if vector else mask).expand(full)
    dense = value.expand(full)
    assert torch.equal(back.expand(full)[chosen], dense[chosen])
    assert (back.expand(full)[~chosen] == -7.0).all()


def test_cutting_twice():
    g = torch.Generator().manual_seed(3)
    first = torch.rand(1, 1, 3, 5, generator=g) < 0.7
    second = torch.rand(2, 4, 3, 5, generator=g) < 0.5
    outer = whole().where(first)
    inner = outer.where(outer.select(second))
    value = torch.randn(SHAPE, generator=g)
    flat = inner.select(outer.select(value))
    back = outer.spread(inner.spread(flat, 0.0), 0.0)
    assert torch.equal(back, torch.where(first & second, value, 0.0))
    assert torch.equal(inner.take(value), flat)


def test_everything_is_the_same_domain():
    domain = whole()
    assert domain.where(torch.ones(1, 1, 3, 5, dtype=torch.bool)) is domain


def test_nothing_is_an_empty_domain():
    domain = whole().where(torch.zeros(1, 1, 1, 1, dtype=torch.bool))
    assert domain.empty
    spread = domain.spread(torch.tensor(1.0), 3.0).expand(SHAPE)
    assert (spread == 3.0).all()


def test_take_finds_the_head_of_the_group():
    keys = torch.randn(2, 2, 1, 5)
    taken = columns_of(whole()).take(keys, head=Axis.H_KV)
    assert torch.equal(taken, keys.repeat_interleave(2, dim=1))
    assert keys_of(whole(), 2).take(keys, head=Axis.H_KV) is keys


def test_sides_have_no_other_coordinate():
    assert Axis.KV not in rows_of(whole()).coords
    assert Axis.Q not in columns_of(whole()).coords
    assert Axis.H not in keys_of(whole(), 2).coords
