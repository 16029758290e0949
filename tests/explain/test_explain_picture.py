"""The picture: mask and tiles look like what they are."""

import sys

import numpy as np
import pytest
from explain_specs import check, example, explained

pytest.importorskip("matplotlib", reason="the plot extra is not installed")


def test_a_picture_of_each_format(tmp_path):
    e = explained(example("gemma2_local"), 512, 512)
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        path = tmp_path / f"a.{suffix}"
        e.plot(path)
        assert path.read_bytes().startswith(start)
        assert path.stat().st_size > 5_000


def test_without_a_path_the_figure_comes_back(tmp_path):
    figure = explained(example("causal"), 64, 64).plot()
    assert [a.get_title() for a in figure.axes[:2]] == [
        "elements that count",
        "tiles, as the compiler knows them",
    ]
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_the_picture_shows_the_verdicts(tmp_path):
    from matplotlib.image import imread

    def middles(mask):
        path = tmp_path / "a.png"
        explained(check(f"attention a:\n mask = {mask}\n"), 512, 512).plot(path)
        pixels = imread(path)
        rows = slice(int(0.5 * pixels.shape[0]), int(0.55 * pixels.shape[0]))
        return [
            [round(float(x), 1) for x in np.median(pixels[rows, column : column + 40, :3], (0, 1))]
            for column in (int(0.2 * pixels.shape[1]), int(0.57 * pixels.shape[1]))
        ]

    blue, grey, orange = [0.1, 0.4, 0.6], [0.9, 0.9, 0.9], [0.9, 0.6, 0.2]
    assert middles("true") == [blue, blue]
    assert middles("kv_idx < 0") == [grey, grey]
    assert middles("kv_idx % 97 >= 0 and (kv_idx * kv_idx) % 97 >= 96")[1] == orange


def test_missing_matplotlib_is_said(monkeypatch, tmp_path):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'attnlang\[plot\]'"):
        explained(example("causal"), 64, 64).plot(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lengths", [(1, 300), (300, 1)])
def test_short_sides(tmp_path, lengths):
    explained(example("full"), *lengths).plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000
