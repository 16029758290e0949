"""From a spec's file to its text, of which no more is read than a spec may have.

Of a file that is too large the text is its beginning, still too large for the parser, which says
so: neither a disk image nor a device without an end costs more than that.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from pathlib import Path
from typing import BinaryIO, Final

from attnlang.syntax.limits import MAX_FILE_BYTES

_LONGEST_CHARACTER: Final = 4  # bytes; the last one read may be cut


def read_text(path: Path) -> str:
    """Return the text of a file, line breaks as they are. Raises OSError, UnicodeDecodeError."""
    with path.open("rb") as file:
        return text_of(file)


def text_of(file: BinaryIO) -> str:
    """Return the text of an open file. Raises UnicodeDecodeError."""
    data = file.read(MAX_FILE_BYTES + _LONGEST_CHARACTER)
    return getincrementaldecoder("utf-8")().decode(data, len(data) <= MAX_FILE_BYTES)


def with_line_feeds(text: str) -> str:
    """Return a text with line feeds as its line breaks; as it is if it is too large for a spec."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FILE_BYTES:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")
