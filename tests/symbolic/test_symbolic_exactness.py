"""How exact tile facts are for the masks of the gallery: verdicts against every element.

The masks are those of positions, sizes and values of a request. Of the tiles that are full or empty
under 2% may stay unknown; a stripe of rows is looked at in one go, so memory is linear.
"""

from dataclasses import replace

import numpy as np
import pytest

from attnlang.compiler import check_source
from attnlang.ir.nodes import Expr
from attnlang.passes.lower import lower
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
# name: parameters, mask, values
MASKS: dict[str, tuple[str, str, dict[str, object]]] = {
    "full": ("", "true", {}),
    "causal": ("", "causal", {}),
    "sliding_window": ("w: int", "sliding_window(w)", {"w": 500}),
    "bidirectional_window": ("l: int, r: int", "bidirectional_window(l, r)", {"l": 300, "r": 77}),
    "float_window": ("w: float", "causal and float(q_idx - kv_idx) < w", {"w": 300.5}),
    "dilated_window": (
        "w: int, r: int",
        "0 <= q_idx - kv_idx < w * r and dilated(r)",
        {"w": 200, "r": 3},
    ),
    "longformer": (
        "w: int, g: int",
        "abs(q_idx - kv_idx) <= w or q_idx < g or kv_idx < g",
        {"w": 256, "g": 16},
    ),
    "bigbird": (
        "c: int, r: bool[NB, NB]",
        "abs(q_idx // c - kv_idx // c) <= 1 or q_idx < c or kv_idx < c "
        "or r[q_idx // c, kv_idx // c]",
        {"c": 64, "r": np.random.default_rng(0).random((80, 80)) < 0.05},
    ),
    "sparse_strided": ("l: int", "strided(l)", {"l": 128}),
    "sparse_fixed": (
        "l: int, c: int",
        "causal and (q_idx // l == kv_idx // l or kv_idx % l >= l - c)",
        {"l": 128, "c": 8},
    ),
    "streaming_llm": (
        "n: int, w: int",
        "causal and (kv_idx < n or q_idx - kv_idx < w)",
        {"n": 4, "w": 1000},
    ),
    "prefix_lm": ("p: int[B]", "prefix_lm(p[b])", {"p": np.array([3, 700])}),
    "padding": ("length: int[B]", "kv_idx < length[b]", {"length": np.array([3, 801])}),
    "block_causal": ("c: int", "kv_idx // c <= q_idx // c", {"c": 192}),
    "chunked": ("c: int", "chunked(c)", {"c": 600}),
    "axial": (
        "x: int",
        "q_idx // x == kv_idx // x or q_idx % x == kv_idx % x",
        {"x": 200},
    ),
    "sliding_tile": (
        "m: int, near: int",  # a video of m tiles of 64 a line, tile by tile
        "abs(q_idx // 64 // m - kv_idx // 64 // m) <= near "
        "and abs(q_idx // 64 % m - kv_idx // 64 % m) <= near",
        {"m": 8, "near": 1},
    ),
    "swin_windows": (
        "x: int, y: int",  # a picture of rows of x, windows of y x y
        "q_idx // (x * y) == kv_idx // (x * y) and q_idx % x // y == kv_idx % x // y",
        {"x": 256, "y": 64},
    ),
    "tree": (
        "",
        "kv_idx < KV - Q or causal and (q_idx - kv_idx) % 2 == 0",
        {},
    ),
}


def lowered(parameters: str, mask: str) -> Expr:
    source = Source("m.attn", f"attention m({parameters}):\n    mask = {mask}\n")
    result = check_source(source)
    result.raise_errors()
    names = frozenset(p.name for p in result.variants[0].params)
    return lower(result.variants[0], consts={}, given=names).mask


def truth(mask: Expr, env: MaskEnv) -> np.ndarray:
    """The verdict of each tile from its elements, a stripe of rows at a time."""
    lines = []
    for first in range(0, env.q_len, TILE):
        rows = min(TILE, env.q_len - first)
        kept = brute_force(mask, replace(env, q_len=rows, q_offset=env.q_offset + first))
        starts = np.arange(0, env.kv_len, TILE)
        some = np.maximum.reduceat(kept.any(axis=0), starts)
        every = np.minimum.reduceat(kept.all(axis=0), starts)
        lines.append(np.where(every, FULL, np.where(some, UNKNOWN, EMPTY)))
    return np.stack(lines)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(
    ("q_len", "kv_len"),
    [(700, 1020), pytest.param(4096, 4096, marks=pytest.mark.slow)],
)
def test_under_two_percent_of_decided_tiles_stay_unknown(
    name: str, q_len: int, kv_len: int
) -> None:
    parameters, text, values = MASKS[name]
    mask = lowered(parameters, text)
    if name == "tree" and q_len == kv_len:
        q_len = 512  # what is left of Q's own size is read from the request
    scalars = {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}
    tensors = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
    env = MaskEnv(
        b=1, h=0, h_kv=0, q_len=q_len, kv_len=kv_len, q_offset=kv_len - q_len, kv_offset=0,
        sizes={"B": 2}, scalars=scalars, tensors=tensors,
    )  # fmt: skip
    found = tile_verdicts(mask, env, q_tile=TILE, kv_tile=TILE)
    if "Q" in text:  # a stripe has another Q
        mask = lowered("old: int", text.replace("KV - Q", "old"))
        env = replace(env, scalars={"old": kv_len - q_len})
    wanted = truth(mask, env)
    assert not ((found != UNKNOWN) & (found != wanted)).any()
    decided = wanted != UNKNOWN
    unknown = float((found[decided] == UNKNOWN).mean()) if decided.any() else 0.0
    assert unknown < 0.02, f"{unknown:.1%} of {int(decided.sum())} tiles"
