"""The limits that keep the parser's work, and the depth of its tree, bounded for any text.

Later stages recurse over expressions, so the depth of the tree is what is limited: a sum of five
thousand terms nests as deeply as five thousand parentheses.
"""

from __future__ import annotations

from typing import Final

MAX_FILE_BYTES: Final = 1 << 20
MAX_TOKENS: Final = 20_000
MAX_DEPTH: Final = 100
MAX_ITEMS: Final = 1_000
MAX_NAMES: Final = 100
MAX_DIAGNOSTICS: Final = 50
MAX_INT: Final = 2**63 - 1
