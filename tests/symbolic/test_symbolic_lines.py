"""Tensors in masks: verdicts against every element, for realistic inputs and for awkward ones."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from ir_terms import CAUSAL, KV_COL, Q_ROW, both, compare, either, load, num
from tensor_masks import MASKS, TensorMask

from attnlang.compiler import check_source, lower
from attnlang.ir.nodes import BOOL, FLOAT, INT, Expr
from attnlang.sources import Source
from attnlang.symbolic.masks import (
    EMPTY,
    FULL,
    UNKNOWN,
    MaskEnv,
    brute_force,
    tile_verdicts,
)

TILE = 64


def lowered(mask: TensorMask, inputs: dict[str, object]) -> Expr:
    result = check_source(Source("mask.attn", mask.text))
    result.raise_errors()
    (variant,) = result.variants
    given = frozenset(n for n, x in inputs.items() if isinstance(x, torch.Tensor))
    return lower(variant, {}, given).mask


def request_of(q: int, kv: int, inputs: dict[str, object]) -> MaskEnv:
    tensors = {n: x.numpy() for n, x in inputs.items() if isinstance(x, torch.Tensor)}
    scalars = {n: x for n, x in inputs.items() if not isinstance(x, torch.Tensor)}
    sizes = {"B": 1, "HQ": 1, "HKV": 1}
    return MaskEnv(0, 0, 0, q, kv, kv - q, 0, sizes, scalars, tensors)


def truth(kept: np.ndarray) -> np.ndarray:
    """What each tile holds; what lies outside counts for neither."""
    edges = [(0, -n % TILE) for n in kept.shape]
    shape = [-(-n // TILE) for n in kept.shape]
    blocks = (shape[0], TILE, shape[1], TILE)
    some = np.pad(kept, edges).reshape(blocks).any((1, 3))
    every = np.pad(kept, edges, constant_values=True).reshape(blocks).all((1, 3))
    return np.where(every, FULL, np.where(some, UNKNOWN, EMPTY))


@pytest.mark.parametrize("name", MASKS)
def test_hardly_a_decided_tile_is_unknown(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    q, kv = (300, 4096) if name == "tree" else (4096, 4096)
    inputs = dict(MASKS[name].make(q, kv, generator))
    mask, env = lowered(MASKS[name], inputs), request_of(q, kv, inputs)
    found = tile_verdicts(mask, env, q_tile=TILE, kv_tile=TILE)
    wanted = truth(brute_force(mask, env))
    assert ((found == wanted) | (found == UNKNOWN)).all()
    decided = wanted != UNKNOWN
    assert (found[decided] == UNKNOWN).sum() < 0.02 * decided.sum()


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_hold_at_odd_lengths(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, kv = [(517, 777), (130, 1000), (65, 66)][seed]
    inputs = dict(MASKS[name].make(q, kv, generator))
    mask, env = lowered(MASKS[name], inputs), request_of(q, kv, inputs)
    found = tile_verdicts(mask, env, q_tile=TILE, kv_tile=TILE)
    assert ((found == truth(brute_force(mask, env))) | (found == UNKNOWN)).all()


def env_of(n: int, **tensors: np.ndarray) -> MaskEnv:
    return MaskEnv(0, 0, 0, n, n, 0, 0, {}, {}, tensors)


IMG_I, IMG_J = load("img", Q_ROW, kind=INT), load("img", KV_COL, kind=INT)


def test_a_guard_chooses_the_elements_that_count() -> None:
    img = np.full(256, -1)
    img[10:20], img[70:80], img[200:210] = 1, 1, 2
    mask = both(compare(">=", IMG_J, num(0)), compare("==", IMG_I, IMG_J))
    found = tile_verdicts(mask, env_of(256, img=img), q_tile=64, kv_tile=64)
    assert found.tolist() == [[2, 2, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]
    # Unguarded, text meets text everywhere.
    loose = compare("==", IMG_I, IMG_J)
    found = tile_verdicts(loose, env_of(256, img=img), q_tile=64, kv_tile=64)
    assert (found == UNKNOWN).sum() == 15
    assert found[2, 2] == FULL


def test_a_false_guard_of_or_lets_the_other_operand_decide() -> None:
    img = np.repeat([3, 3, 5, 5], 64)
    img[:8] = -1
    mask = either(compare("<", IMG_J, num(0)), compare("==", IMG_I, num(3)))
    found = tile_verdicts(mask, env_of(256, img=img), q_tile=64, kv_tile=64)
    assert found[1].tolist() == [FULL] * 4
    assert found[2].tolist() == [UNKNOWN, EMPTY, EMPTY, EMPTY]


def test_two_equalities_are_one_of_tuples() -> None:
    env = env_of(2, a=np.array([0, 1]), x=np.array([1, 0]), b=np.array([0, 1]))
    crossed = compare("==", load("a", Q_ROW, kind=INT), load("x", KV_COL, kind=INT))
    straight = compare("==", load("b", Q_ROW, kind=INT), load("b", KV_COL, kind=INT))
    for one in (crossed, straight):
        assert tile_verdicts(one, env, q_tile=2, kv_tile=2).tolist() == [[UNKNOWN]]
    found = tile_verdicts(both(crossed, straight), env, q_tile=2, kv_tile=2)
    assert found.tolist() == [[EMPTY]]


def test_nan_decides_nothing_but_where_a_guard_hides_it() -> None:
    gate = np.ones(128, np.float32)
    gate[5] = np.nan
    shown = np.arange(128) != 5
    open_ = compare("<=", load("gate", KV_COL, kind=FLOAT), load("cap", Q_ROW))
    env = env_of(128, gate=gate, shown=shown, cap=np.full(128, 2, np.float32))
    assert tile_verdicts(open_, env, q_tile=128, kv_tile=64).tolist() == [[UNKNOWN, FULL]]
    never = compare(">", load("gate", KV_COL), load("cap", Q_ROW))
    guarded = both(load("shown", KV_COL, kind=BOOL), never)
    # A comparison with NaN is false, so it is empty as it stands, too.
    assert tile_verdicts(never, env, q_tile=128, kv_tile=64).tolist() == [[EMPTY, EMPTY]]
    assert tile_verdicts(guarded, env, q_tile=128, kv_tile=64).tolist() == [[EMPTY, EMPTY]]


def test_unsorted_ids_of_a_long_sequence_take_linear_memory() -> None:
    n, tile = 1 << 16, 512
    ids = np.random.default_rng(0).permutation(n // 512).repeat(512)
    mask = both(CAUSAL, compare("==", load("ids", Q_ROW, kind=INT), load("ids", KV_COL, kind=INT)))
    tracemalloc.start()
    found = tile_verdicts(mask, env_of(n, ids=ids), q_tile=tile, kv_tile=tile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found != EMPTY).sum() == n // tile
    assert peak < 512 * n
