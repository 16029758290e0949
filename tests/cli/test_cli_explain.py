"""`attnlang explain`: the facts as text, the picture as a file."""

from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_text(cli):
    done = cli(
        "explain", EXAMPLES / "sliding_window.attn", "--q-len", 512, "--set", "window_size=64"
    )
    assert (done.code, done.err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines() if line[0] != " ")
    assert lines["variant"] == "sliding_window(window_size = 64)"
    assert "A query sees itself" in done.out
    assert lines["tiles"] == "64 of a request and head: Q 512 x KV 512 in tiles of 64 x 64"
    # A window of one tile: the diagonal and what is left of it, each in part.
    assert lines["partial"].startswith("15 ")
    assert lines["empty"].startswith("49 ")
    assert lines["full"].startswith("0 ")
    assert lines["kernels"] == "cpu"


def test_the_picture(cli, tmp_path):
    picture = tmp_path / "mask.png"
    done = cli("explain", EXAMPLES / "causal.attn", "--q-len", 256, "--plot", picture)
    assert done.code == 0
    assert done.err == f"drawn in {picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000


def test_the_picture_shows_the_verdicts(cli, tmp_path):
    """A mask without a true element and one without a false one do not look alike."""
    from matplotlib.image import imread

    def middle(mask):
        spec = tmp_path / "a.attn"
        spec.write_text(f"attention a:\n mask = {mask}\n")
        picture = tmp_path / "a.png"
        assert cli("explain", spec, "--q-len", 2048, "--plot", picture).code == 0
        pixels = imread(picture)
        rows, columns = (slice(n // 2 - 50, n // 2 + 50) for n in pixels.shape[:2])
        # The median, for lines between tiles cross it.
        return [round(float(x), 1) for x in np.median(pixels[rows, columns, :3], axis=(0, 1))]

    assert middle("true") == [0.1, 0.4, 0.6]
    assert middle("kv_idx < 0") == [1.0, 1.0, 0.9]


def test_decoding_and_cross_attention_have_pictures(cli, tmp_path):
    picture = tmp_path / "a.svg"
    done = cli(
        "explain", EXAMPLES / "padding.attn", "--q-len", 1, "--kv-len", 300, "--plot", picture
    )
    assert done.code == 0
    assert "<svg" in picture.read_text()


def test_what_no_kernel_runs_is_said(cli, spec):
    path = spec("attention a:\n out = acc / max(row_sum, 1.0)\n weights = relu(score)\n")
    done = cli("explain", path, "--q-len", 128)
    assert done.code == 0
    assert "cannot run" in done.out


def test_a_mask_that_reads_scores_has_no_tiles(cli, spec, tmp_path):
    path = spec("attention a:\n mask = score > 0\n")
    done = cli("explain", path, "--q-len", 64, "--plot", tmp_path / "a.png")
    assert done.code == 0
    assert "not known before the scores are" in done.out
    assert not (tmp_path / "a.png").exists()


def test_wrong_input(cli, tmp_path):
    path = EXAMPLES / "causal.attn"
    assert cli("explain", path, "--plot", tmp_path / "no" / "a.png").code == 1
    assert cli("explain", path, "--plot", tmp_path / "a.nonsense").code == 1
    assert cli("explain", path, "--q-len", 1 << 24).code == 1
    assert cli("explain", path, "--set", "cap=1").code == 1
