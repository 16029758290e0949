"""Counts and pictures of tiles against the elements."""

import numpy as np
import pytest
from explain_specs import check, explained

from attnlang.explain import tiles as module
from attnlang.explain.tiles import count_tiles
from attnlang.symbolic.masks import EMPTY, FULL, UNKNOWN, MaskEnv, brute_force, tile_verdicts

MASKS = {
    "causal": "mask = causal",
    "window": "mask = sliding_window(23)",
    "dilated": "mask = causal and (q_idx - kv_idx) % 3 == 0",
    "chunked": "mask = chunked(40)",
    "none": "mask = kv_idx < 0",
    "all": "mask = true",
}


def env(q_len: int, kv_len: int) -> MaskEnv:
    return MaskEnv(
        b=0, h=0, h_kv=0, q_len=q_len, kv_len=kv_len, q_offset=kv_len - q_len, kv_offset=0
    )


@pytest.mark.parametrize("lengths", [(128, 128), (70, 45), (1, 100), (45, 170), (1, 1)])
@pytest.mark.parametrize("text", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("max_cells", [128, 3])
def test_the_counts_are_what_the_elements_say(monkeypatch, text, lengths, max_cells):
    monkeypatch.setattr(module, "_MAX_CELLS", max_cells)
    mask = check(f"attention a:\n {text}\n").mask
    where = env(*lengths)
    found = count_tiles(mask, where, tile=8)
    dense = brute_force(mask, where)
    verdicts = tile_verdicts(mask, where, q_tile=8, kv_tile=8)
    columns = np.zeros(lengths[1], bool)
    elements = dict.fromkeys((int(EMPTY), int(FULL), int(UNKNOWN)), 0)
    for (i, j), verdict in np.ndenumerate(verdicts):
        tile = dense[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
        assert verdict != FULL or tile.all()
        assert verdict != EMPTY or not tile.any()
        elements[int(verdict)] += tile.size
        columns[8 * j : 8 * j + 8] |= verdict != EMPTY
    for count, verdict in ((found.full, FULL), (found.partial, UNKNOWN), (found.empty, EMPTY)):
        assert count.tiles == (verdicts == verdict).sum()
        assert count.elements == elements[int(verdict)]
    assert found.all == verdicts.size
    assert found.visited_columns == columns.sum()


def test_shares_are_exact_where_the_analysis_is():
    """A window of whole tiles: per row of tiles one full, the diagonal and the last in part."""
    found = explained(check("attention a:\n mask = sliding_window(128)\n"), 512, 512).tiles
    assert (found.full.tiles, found.partial.tiles, found.empty.tiles) == (7, 8 + 6, 64 - 21)
    assert found.share(found.full) == 7 / 64


def test_the_picture_has_the_verdicts():
    found = explained(check("attention a:\n mask = causal\n"), 256, 256).tiles
    expected = np.where(np.tri(4, k=-1) > 0, int(FULL), int(EMPTY))
    np.fill_diagonal(expected, int(UNKNOWN))
    assert (found.cells == expected).all()
    assert found.density[3, 0] == 1
    assert found.density[0, 3] == 0
    assert 0 < found.density[2, 2] < 1


def test_a_single_row_or_column_shows_in_every_cell():
    """And in all of them alike: of 64 x 64 elements one 64th counts, of less a larger part."""
    found = explained(check("attention a:\n mask = q_row == 70 or kv_idx == 3\n"), 200, 256).tiles
    assert (found.density[1, 1:] == 1 / 64).all()
    assert (found.density[0::2, 0] == 1 / 64).all()
    assert found.density[3, 0] == 1 / 64
    assert found.density[1, 0] == pytest.approx(127 / 4096, abs=1 / 64)
    assert not found.density[0, 1:].any()
    assert found.shades.max() == 1


def test_a_long_call_is_quick_and_small():
    """2 ** 28 tiles: only those near the window are looked at one by one."""
    variant = check("attention a:\n mask = sliding_window(4096)\n")
    found = count_tiles(variant.mask, env(1 << 17, 1 << 17))
    n, w = (1 << 17) // 64, 4096 // 64
    full = sum(min(i, w - 1) for i in range(n))
    assert found.full.tiles == full
    assert found.partial.tiles == n + (n - w)
    assert found.all == n * n
    assert found.cells.shape == (128, 128)


def test_a_tensor_too_large_to_invent_is_unknown(monkeypatch):
    monkeypatch.setattr("attnlang.invent.inputs.MAX_DRAWN", 100)
    monkeypatch.setattr("attnlang.explain.make.MAX_DRAWN", 100)
    variant = check("attention a(keep: bool[Q, KV]):\n mask = keep[q_row, kv_col]\n")
    found = explained(variant, 128, 128)
    assert found.tiles.unknown == ("keep",)
    assert found.tiles.partial.tiles == found.tiles.all == 4
    assert "keep: too large to invent" in str(found)


def test_lengths_are_the_ones_asked_for():
    found = explained(check("attention a:\n require Q == KV\n"), 64, 64)
    assert (found.shape.q, found.shape.kv) == (64, 64)
