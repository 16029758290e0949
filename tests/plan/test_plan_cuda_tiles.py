"""Which widths of values the GPU kernels take, and in how many warps' shares."""

import pytest

from attnlang.compiler import check_source, lower
from attnlang.jit.units import Target
from attnlang.passes.adjoint import adjoint
from attnlang.plan.cuda_tiles import choose_tiles
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.plan import make_plan
from attnlang.plan.widths import WidthError, Widths
from attnlang.sources import Source

WIDE = (*range(288, 513, 32), 528, 576)  # beyond 256, where two or three warps share a row


def widths(head, value):
    return Widths(head=head, value=value, product=head, acc=value, out=value)


@pytest.mark.parametrize("target", [Target.SM80, Target.SM90])
@pytest.mark.parametrize("value", [*range(16, 257, 16), *WIDE])
def test_values_are_shared_out_in_whole_instructions(target, value):
    tiles = choose_tiles(target, widths(64, value))
    if tiles.skeleton == "sm80":
        shares = tiles.warps * 16 // tiles.query_tile
        assert value % shares == 0
        assert value // shares % 16 == 0
        assert value // shares <= 256


@pytest.mark.parametrize("value", [n for n in range(272, 577, 16) if n not in WIDE])
def test_other_widths_are_refused(value):
    with pytest.raises(WidthError) as caught:
        choose_tiles(Target.SM80, widths(64, value))
    assert caught.value.argument == "v"
    assert ", ".join(map(str, WIDE)) in caught.value.expected


def test_the_widths_of_gallery_kernels_are_taken():
    assert choose_tiles(Target.SM80, widths(576, 512)).skeleton == "sm80"
    assert choose_tiles(Target.SM90, widths(512, 512), shared=True).skeleton == "sm90"


BIAS = """attention bias(bias: float[HQ, Q, KV]):
    score = score + bias[h, q_row, kv_col]
"""
SLOPES = """attention slopes(slope: float[HQ]):
    score = score + slope[h] * (kv_idx - q_idx)
"""


@pytest.mark.parametrize(("text", "tile"), [(BIAS, 16), (SLOPES, 32)], ids=["pair", "head"])
def test_backward_tiles_are_smaller_where_each_element_reads_a_tensor(text, tile):
    result = check_source(Source("test.attn", text))
    result.raise_errors()
    (variant,) = result.variants
    lowered = lower(variant, {}, frozenset())
    key = KernelKey("bf16", 64, 64, ("f32",), Target.SM80)
    backward = make_plan(lowered, key, adjoint(lowered)).backward
    assert (backward.keys.tile, backward.queries.tile) == (tile, tile)


@pytest.mark.parametrize("head", range(16, 257, 48))
@pytest.mark.parametrize("value", range(16, 257, 48))
def test_packed_calls_on_hopper_leave_room_for_requests(head, value):
    tiles = choose_tiles(Target.SM90, widths(head, value), plain=True, packed=True)
    assert tiles.skeleton == "sm90"
    whole_head, whole_value = (-(-n // 64) * 64 for n in (head, value))
    rows = tiles.query_tile * whole_head
    rows += tiles.stages * tiles.key_tile * (whole_head + whole_value)
    assert 2 * rows + (8 << 10) <= 227 << 10
