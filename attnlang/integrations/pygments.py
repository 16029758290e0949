"""The Pygments lexer: a spec's text to coloured words, in terminals, documentation and notebooks.

Registered as `attn` in `pyproject.toml`. The names are the compiler's own, so the lexer knows each
as soon as the language does; the words of the grammar are tested against it. Invariant: a sound
spec has no error token, and the tokens together are the text. Imports no torch.
"""

from __future__ import annotations

from typing import ClassVar, Final

from pygments.lexer import RegexLexer, bygroups, words
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
)

from attnlang.sema.modules import prelude
from attnlang.sema.names import CONSTANTS, COORDS, FUNCTIONS, RESULTS, ROW_STATS, SIZES, VECTORS
from attnlang.syntax.tokens import KINDS

DECLARATIONS: Final = ("attention", "def")
NAMESPACE: Final = ("from", "import")
KEYWORDS: Final = ("if", "else", "require")
LOGIC: Final = ("and", "or", "not")
LITERALS: Final = ("true", "false", "none")
GIVEN: Final = (*VECTORS, *COORDS, *SIZES, *ROW_STATS)
PRELUDE: Final = tuple(prelude().own)

_GAP: Final = r"([ \t\f\r\n]+)"
_CALL: Final = r"\b(?=[ \t\f\r\n]*\()"


class AttnLexer(RegexLexer):  # type: ignore[misc]  # Pygments has no types
    """The language of attention variants."""

    name = "attnlang"
    aliases: ClassVar = ["attn", "attnlang"]
    filenames: ClassVar = ["*.attn"]

    tokens: ClassVar = {
        "root": [
            (r"[ \t\f\r\n]+", Whitespace),
            (r"#[^\n\r]*", Comment.Single),
            (r'"', String.Double, "string"),
            (rf"(attention){_GAP}(\w+)", bygroups(Keyword.Declaration, Whitespace, Name.Class)),
            (rf"(def){_GAP}(\w+)", bygroups(Keyword.Declaration, Whitespace, Name.Function)),
            (words((*DECLARATIONS, "const"), prefix=r"\b", suffix=r"\b"), Keyword.Declaration),
            (words(NAMESPACE, prefix=r"\b", suffix=r"\b"), Keyword.Namespace),
            (words(KEYWORDS, prefix=r"\b", suffix=r"\b"), Keyword),
            (words(LOGIC, prefix=r"\b", suffix=r"\b"), Operator.Word),
            (words((*LITERALS, *CONSTANTS), prefix=r"\b", suffix=r"\b"), Keyword.Constant),
            (words(FUNCTIONS, prefix=r"\b", suffix=_CALL), Name.Builtin),
            (words(KINDS, prefix=r"\b", suffix=r"\b"), Keyword.Type),
            (words(PRELUDE, prefix=r"\b", suffix=r"\b"), Name.Builtin),
            (words(RESULTS, prefix=r"\b", suffix=r"\b"), Name.Variable.Magic),
            (words(GIVEN, prefix=r"\b", suffix=r"\b"), Name.Builtin.Pseudo),
            (r"[A-Za-z_]\w*", Name),
            (r"(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)[eE][+-]?[0-9]+", Number.Float),
            (r"[0-9][0-9_]*\.[0-9]*|\.[0-9]+", Number.Float),
            (r"[0-9][0-9_]*", Number.Integer),
            (r"\*\*|//|[=!<>]=|[-+*/%<>=]", Operator),
            (r"[()\[\],:]", Punctuation),
        ],
        "string": [
            (r'\\[nt"\\]', String.Escape),
            (r'[^"\\\n\r]+', String.Double),
            (r'"', String.Double, "#pop"),
        ],
    }
