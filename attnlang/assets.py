"""Where the parts of attnlang that are not Python lie.

`grammar/`, `codegen/` and `runtime/` stand beside the package in a checkout (an editable install
too) and in `attnlang/_data/` in a wheel. This module alone knows which of the two it is.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_DATA = _PACKAGE / "_data"
_ROOT = _DATA if _DATA.is_dir() else _PACKAGE.parent


def asset(*parts: str) -> Path:
    """Return the path of an asset, as in `asset("grammar", "attn.lark")`."""
    return _ROOT.joinpath(*parts)
