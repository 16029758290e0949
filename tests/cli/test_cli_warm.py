"""What is said of a spec does not depend on whether the cache knew it before."""

from pathlib import Path

import pytest

import attnlang
from attnlang.ops.specialised import Specialised

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("gemma2_local", "document", "alibi", "sink", "sigmoid", "differential")
WRONG_CALLS = {
    "gemma2_local": {"cap": -1.0},
    "alibi": {"slopes": "many"},
}


def _said(cli, path: Path) -> list[str]:
    """Return all that commands and the loaded variant say, of right things and of wrong ones."""
    said = []
    for stage in ("ir", "simplified", "plan", "source"):
        done = cli("show", path, "--stage", stage)
        assert done.code == 0
        said += [done.out, done.err]
    for command in ("explain", "check"):
        done = cli(command, path)
        said += [done.out, done.err]
    variant = attnlang.load(path)
    explained = variant.explain(64, 64)
    said += [str(explained), explained.to_html(), repr(variant), variant.__doc__ or ""]
    needed = frozenset(p.name for p in variant.ir.params if not hasattr(p, "const"))
    lowered = Specialised(variant.ir, {}, needed).lowered
    said.append(repr(lowered.variant))
    with pytest.raises(attnlang.CallError) as error:
        variant.explain(64, 64, **WRONG_CALLS.get(path.stem, {"nothing": 1}))
    return [*said, str(error.value)]


@pytest.mark.parametrize("name", NAMES)
def test_a_warm_cache_says_what_a_cold_one_says(cli, name, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path))
    cold = _said(cli, EXAMPLES / f"{name}.attn")
    kept = sorted(f.name for f in tmp_path.rglob("*-*"))
    assert any(n.startswith("checked-") for n in kept)
    assert any(n.startswith("lowered-") for n in kept)
    warm = _said(cli, EXAMPLES / f"{name}.attn")
    assert warm == cold
    assert sorted(f.name for f in tmp_path.rglob("*-*")) == kept  # found, not made again


def test_an_error_says_the_same_each_time(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNLANG_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "wrong.attn"
    path.write_text("attention a(cap: float):\n score = soft_cap(scor, cap)\n mask = causl\n")
    first, second = (cli("check", path) for _ in range(2))
    assert first.code != 0
    assert (first.code, first.out, first.err) == (second.code, second.out, second.err)
    texts = []
    for _ in range(2):
        with pytest.raises(attnlang.SpecError) as error:
            attnlang.load(path)
        texts.append(str(error.value))
    assert texts[0] == texts[1]
