"""What people write who come from another language, and what this one writes instead.

Each entry is the terminal that stands in for the slip, so that parsing goes on, or None if it is
left out, and the words of the advice.
"""

from __future__ import annotations

from typing import Final

LITERALS: Final[dict[str, tuple[str, str]]] = {
    "True": ("TRUE", "true"),
    "False": ("FALSE", "false"),
    "None": ("NONE", "none"),
}

SPELLING: Final[dict[str, str]] = {
    "AND": "and",
    "OR": "or",
    "NOT": "not",
    "POWER": "**",
    "EQ": "==",
    "NE": "!=",
    "LE": "<=",
    "GE": ">=",
    "EQUAL": "=",
    "STAR": "*",
    "SLASH": "/",
    "MINUS": "-",
    "LPAR": "(",
    "RPAR": ")",
    "COMMA": ",",
    "COLON": ":",
}

_NO_SCOPE: Final = "a statement ends where the next one begins"

SIGNS: Final[dict[str, tuple[str | None, str]]] = {
    "&&": ("AND", "write `and`"),
    "||": ("OR", "write `or`"),
    "!": ("NOT", "write `not`"),
    "&": ("AND", "write `and`; bit n of an integer is `bit(x, n)`"),
    "|": ("OR", "write `or`; an absolute value is `abs(x)`"),
    "~": ("NOT", "write `not`"),
    "^": ("POWER", "write `**` for a power"),
    "<>": ("NE", "write `!=`"),
    "===": ("EQ", "write `==`"),
    "!==": ("NE", "write `!=`"),
    "=>": ("GE", "write `>=` to compare"),
    "=<": ("LE", "write `<=` to compare"),
    ":=": ("EQUAL", "write `=`, as a statement of its own"),
    "->": (None, "an expression has no declared type"),
    ";": (None, f"leave it out: {_NO_SCOPE}"),
    "@": ("STAR", "the product of two vectors is `dot(x, y)`"),
    ".": (None, "a function is called by its bare name, and there are no attributes"),
    "{": (None, f"group with `(` and `)`; a body takes no braces: {_NO_SCOPE}"),
    "}": (None, f"group with `(` and `)`; a body takes no braces: {_NO_SCOPE}"),
    "+=": ("EQUAL", ""),
    "-=": ("EQUAL", ""),
    "*=": ("EQUAL", ""),
    "/=": ("EQUAL", ""),
    "%=": ("EQUAL", ""),
    "//=": ("EQUAL", ""),
    "**=": ("EQUAL", ""),
}

CHARACTERS: Final[dict[str, tuple[str | None, str | None]]] = {
    "\u00d7": ("STAR", "`*`"),
    "\u00b7": ("STAR", "`*`"),
    "\u22c5": ("STAR", "`*`"),
    "\u00f7": ("SLASH", "`/`"),
    "\u2212": ("MINUS", "`-`"),
    "\u2013": ("MINUS", "`-`"),
    "\u2014": ("MINUS", "`-`"),
    "\u2264": ("LE", "`<=`"),
    "\u2265": ("GE", "`>=`"),
    "\u2260": ("NE", "`!=`"),
    "\u2227": ("AND", "`and`"),
    "\u2228": ("OR", "`or`"),
    "\u00ac": ("NOT", "`not`"),
    "\u221e": ("NAME", "`inf`"),
    "\u03c0": ("NAME", "`pi`"),
    "\u00b2": (None, "`** 2`"),
    "\u00b3": (None, "`** 3`"),
    "\u221a": (None, "`sqrt(...)`"),
    "\u201c": (None, 'a string as `"..."`'),
    "\u201d": (None, 'a string as `"..."`'),
    "\u2018": (None, 'a string as `"..."`'),
    "\u2019": (None, 'a string as `"..."`'),
    "'": (None, 'a string as `"..."`'),
    "\uff08": ("LPAR", "`(`"),
    "\uff09": ("RPAR", "`)`"),
    "\uff0c": ("COMMA", "`,`"),
    "\uff1a": ("COLON", "`:`"),
    "\uff1d": ("EQUAL", "`=`"),
    "\u00a0": (None, "an ordinary space"),
    "\u200b": (None, "nothing in its place; the character is invisible"),
    "\u3000": (None, "an ordinary space"),
    "?": (None, "a choice as `x if c else y`"),
}

_EXPRESSION: Final = "a statement is `name = expression` or `require condition`"

WORDS: Final[dict[str, str]] = {
    "return": "assign to a result: `score = ...`, `mask = ...`, `weights = ...` or `out = ...`",
    "lambda": "write a `def` item: `def name(x) = ...`",
    "for": "the expressions hold for every row and column: there is nothing to loop over",
    "while": "the expressions hold for every row and column: there is nothing to loop over",
    "elif": "nest the choice: `x if c else y if d else z`",
    "switch": "nest the choice: `x if c else y if d else z`",
    "match": "nest the choice: `x if c else y if d else z`",
    "in": "compare with `==`, or with a range: `0 <= x < n`",
    "is": "compare with `==`",
    "let": f"leave it out: {_EXPRESSION}",
    "var": f"leave it out: {_EXPRESSION}",
    "auto": f"leave it out: {_EXPRESSION}",
    "where": "write `x if c else y`",
    "class": "a file holds `attention` and `def` items",
    "fn": "write `def name(x) = ...`",
    "func": "write `def name(x) = ...`",
    "function": "write `def name(x) = ...`",
    "kernel": "write `attention name(...):`",
    "assert": 'write `require condition, "message"`',
    "with": _EXPRESSION,
    "try": _EXPRESSION,
    "raise": 'write `require condition, "message"`',
    "yield": _EXPRESSION,
    "pass": "leave it out: an empty body is plain attention",
    "break": _EXPRESSION,
    "continue": _EXPRESSION,
    "global": _EXPRESSION,
    "del": _EXPRESSION,
    "async": _EXPRESSION,
    "await": _EXPRESSION,
}
