"""What is read of a file: its text, and of one that is too large no more than tells that."""

import io
import resource
from pathlib import Path

import pytest

import attnlang
from attnlang.sources import Source
from attnlang.syntax.limits import MAX_FILE_BYTES
from attnlang.syntax.parser import parse
from attnlang.syntax.reading import read_text, text_of, with_line_feeds


def text(data: bytes) -> str:
    return text_of(io.BytesIO(data))


def codes(found: str) -> list[str]:
    return [d.code for d in parse(Source("a.attn", found)).diagnostics]


def test_line_breaks_of_every_system() -> None:
    assert with_line_feeds(text(b"a\r\nb\rc\nd\r\n")) == "a\nb\nc\nd\n"


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("character", ["é", "語", "\U0001f4d0"])
def test_a_large_file_is_too_large_wherever_it_is_cut(start: int, character: str) -> None:
    found = text(b"#" * start + character.encode() * MAX_FILE_BYTES)
    assert len(found.encode()) <= MAX_FILE_BYTES + 4
    assert codes(found) == ["A130"]


def test_line_breaks_do_not_make_a_cut_file_small() -> None:
    assert codes(with_line_feeds(text(b"\r\n" * MAX_FILE_BYTES))) == ["A130"]


def test_the_largest_file() -> None:
    whole = b"#" * (MAX_FILE_BYTES - 2) + "é".encode()
    assert text(whole).endswith("é")
    assert codes(text(whole)) == []


@pytest.mark.parametrize("data", [b"\xff", b"a\xc3", b"#" * (MAX_FILE_BYTES - 1) + b"\xc3"])
def test_what_is_no_text(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        text(data)


def test_a_huge_file_costs_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.attn"
    with path.open("wb") as file:
        file.truncate(1 << 34)  # takes no room on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert codes(with_line_feeds(read_text(path))) == ["A130"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16  # KiB
    with pytest.raises(attnlang.SpecError, match="more than 1,048,576 bytes"):
        attnlang.load(path)
