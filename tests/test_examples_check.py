"""Every file of the gallery is sound, warns of nothing, and holds the variant it is named after."""

from pathlib import Path

import pytest

from attnlang.compiler import check_source
from attnlang.sources import Source

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.attn"))


def test_the_gallery_is_there() -> None:
    assert len(EXAMPLES) >= 14


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_sound(path: Path) -> None:
    result = check_source(Source(path.name, path.read_text(encoding="utf-8")), folder=path.parent)
    assert result.diagnostics == ()
    assert [v.name for v in result.variants] == [path.stem]
    assert result.variants[0].doc
