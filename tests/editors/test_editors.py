"""The Pygments lexer and the TextMate grammar, against the compiler's own words on every spec.

Both must give each token of the parser the class that the language gives it: a name that the
language gains fails here until both know it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from processes import environment
from pygments.token import Comment, Error, Keyword, Name, Number, Operator, Punctuation, String
from textmate import tokenize

from attnlang.integrations import pygments as ours
from attnlang.sema import names
from attnlang.sema.modules import prelude
from attnlang.sources import Source
from attnlang.syntax.parser import parse
from attnlang.syntax.tokens import Token

ROOT = Path(__file__).resolve().parents[2]
GRAMMAR = json.loads((ROOT / "editors/attn.tmLanguage.json").read_text(encoding="utf-8"))
FOLDERS = ("examples", "grammar", "tests/cases/ok")
PATHS = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.attn"))]
TEXTS = {p: p.read_text(encoding="utf-8", errors="replace") for p in PATHS}
# Every name that the language itself gives a meaning, read and called.
EVERY = "attention every:\n" + "".join(
    f"    {name}_ = {name} + {name}(1)\n"
    for name in (*names.BUILTIN_VALUES, *names.FUNCTIONS, *prelude().own)
)
SOUND = {
    "every name": EVERY,
    "an import": 'from "a/b.attn" import first, second\nattention a:\n    score = first + second\n',
    **{
        str(path.relative_to(ROOT)): text
        for path, text in TEXTS.items()
        if not parse(Source("spec.attn", text)).diagnostics
    },
}

# The class of a word: what Pygments calls it, and what TextMate does.
CLASSES = {
    "keyword": (Keyword, "keyword.control.attn"),
    "namespace": (Keyword.Namespace, "keyword.control.import.attn"),
    "declaration": (Keyword.Declaration, "storage.type.attn"),
    "const": (Keyword.Declaration, "storage.modifier.attn"),
    "logic": (Operator.Word, "keyword.operator.logical.attn"),
    "constant": (Keyword.Constant, "constant.language.attn"),
    "kind": (Keyword.Type, "storage.type.kind.attn"),
    "def": (Name.Function, "entity.name.function.attn"),
    "attention": (Name.Class, "entity.name.function.attn"),
    "function": (Name.Builtin, "support.function.attn"),
    "prelude": (Name.Builtin, "support.function.prelude.attn"),
    "result": (Name.Variable.Magic, "variable.language.result.attn"),
    "given": (Name.Builtin.Pseudo, "variable.language.attn"),
    "name": (Name, "variable.other.attn"),
    "number": (Number, "constant.numeric.attn"),
    "string": (String, "string.quoted.double.attn"),
    "punctuation": (Punctuation, "punctuation.separator.attn"),
    "operator": (Operator, "keyword.operator.attn"),
}
WORDS = {
    **dict.fromkeys(("if", "else", "require"), "keyword"),
    **dict.fromkeys(("from", "import"), "namespace"),
    **dict.fromkeys(("def", "attention"), "declaration"),
    "const": "const",
    **dict.fromkeys(("and", "or", "not"), "logic"),
    **dict.fromkeys(("true", "false", "none", *names.CONSTANTS), "constant"),
}


def class_of(token: Token, before: Token | None, after: Token | None) -> str:
    """The class that the language gives a token."""
    text = token.text
    if token.type in ("NUMBER", "STRING"):
        return token.type.lower()
    if token.type != "NAME":
        return WORDS.get(text) or ("punctuation" if text in "()[],:" else "operator")
    if before is not None and before.text in ("def", "attention"):
        return before.text
    if text in names.FUNCTIONS and after is not None and after.text == "(":
        return "function"
    if text in ("float", "int", "bool"):
        return "kind"
    if text in prelude().own:
        return "prelude"
    if text in names.RESULTS:
        return "result"
    if text in names.CONSTANTS:
        return "constant"
    return "given" if text in names.BUILTIN_VALUES else "name"


def expected(text: str, by_line: bool = False) -> dict[int, tuple[str, str]]:
    """The text and the class of each token, by its place; `by_line` sees no other line."""
    tokens = parse(Source("spec.attn", text)).tokens
    found = {}
    for before, t, after in zip((None, *tokens), tokens, (*tokens[1:], None), strict=False):
        if by_line and before and "\n" in text[before.span.end : t.span.start]:
            before = None
        if by_line and after and "\n" in text[t.span.end : after.span.start]:
            after = None
        found[t.span.start] = (t.text, class_of(t, before, after))
    return found


def test_there_are_specs_of_every_class() -> None:
    assert len(SOUND) > 15
    assert {c for text in SOUND.values() for _, c in expected(text).values()} == set(CLASSES)


@pytest.mark.parametrize("name", SOUND)
def test_pygments(name: str) -> None:
    text = SOUND[name]
    found = list(ours.AttnLexer().get_tokens_unprocessed(text))
    assert "".join(value for _, _, value in found) == text
    assert not [piece for piece in found if piece[1] is Error]
    by_place = {start: (value, token) for start, token, value in found}
    for start, (word, class_) in expected(text).items():
        value, token = by_place[start]
        assert token in CLASSES[class_][0], f"{word!r} is {token}, and should be a {class_}"
        if class_ not in ("number", "string"):
            assert token is CLASSES[class_][0], f"{word!r} is {token}, and should be a {class_}"
            assert value == word


@pytest.mark.parametrize("name", SOUND)
def test_textmate(name: str) -> None:
    text = SOUND[name]
    found = tokenize(GRAMMAR, text)
    by_place = {piece.start: piece for piece in found}
    covered = {
        place for piece in found for place in range(piece.start, piece.start + len(piece.text))
    }
    assert all(place in covered for place, c in enumerate(text) if c != "\n")
    for piece in found:
        assert len(piece.scopes) > 1 or piece.text.isspace(), f"nothing takes {piece.text!r}"
    for start, (word, class_) in expected(text, by_line=True).items():
        piece = by_place[start]
        assert piece.scopes[1] == CLASSES[class_][1], f"{word!r} is {piece}, should be a {class_}"
        if class_ != "string":
            assert piece.text == word


def test_comments_and_escapes() -> None:
    text = 'attention a:  # score = "x"\n    "b # \\" c"\n    score = 1 # \\"\n'
    comments = ['# score = "x"', '# \\"']
    pygments = list(ours.AttnLexer().get_tokens(text))
    assert [v for t, v in pygments if t is Comment.Single] == comments
    assert [v for t, v in pygments if t is String.Escape] == ['\\"']
    textmate = tokenize(GRAMMAR, text)
    assert [p.text for p in textmate if p.scopes[-1].startswith("comment.")] == comments
    assert [p.text for p in textmate if p.scopes[-1].startswith("constant.character")] == ['\\"']


def test_what_is_no_token_is_an_error_and_the_rest_goes_on() -> None:
    found = list(
        ours.AttnLexer().get_tokens('attention a:\n    score = $ "open\n    mask = true\n')
    )
    assert [v for t, v in found if t is Error] == ["$"]
    assert (Keyword.Constant, "true") in found
    pieces = tokenize(GRAMMAR, 'score = "open\nmask = true')
    assert pieces[-1].scopes[-1] == "constant.language.attn"


def test_the_words_of_the_grammar_are_all_known() -> None:
    rules = (ROOT / "grammar/attn.lark").read_text(encoding="utf-8").partition("// Words")[0]
    rules = re.sub(r"//[^\n]*", "", rules)
    assert set(re.findall(r'"([a-z]+)"', rules)) == set(WORDS) - set(names.CONSTANTS)
    lists = (ours.DECLARATIONS, ours.NAMESPACE, ours.KEYWORDS, ours.LOGIC, ours.LITERALS)
    assert {word for words in lists for word in words} | {"const"} == set(WORDS) - set(
        names.CONSTANTS
    )


def test_textmate_lists_no_name_that_the_language_lacks() -> None:
    text = json.dumps(GRAMMAR)
    listed = {w for group in re.findall(r"\(([a-z_A-Z0-9|]+)\)", text) for w in group.split("|")}
    assert listed == {*WORDS, *names.BUILTIN_VALUES, *names.FUNCTIONS, *prelude().own, "bool"}


def test_pygments_finds_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["pygments.lexers"]["attn"].partition(":")
    assert getattr(import_module(module), name) is ours.AttnLexer
    assert "*.attn" in ours.AttnLexer.filenames


def test_colours_need_no_torch() -> None:
    program = "import sys, attnlang.integrations.pygments; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "sympy", "numpy"} & set(done.stdout.split())


def test_the_extension_names_files_that_are_there() -> None:
    folder = ROOT / "editors/vscode"
    manifest = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    (language,) = manifest["contributes"]["languages"]
    (grammar,) = manifest["contributes"]["grammars"]
    assert language["extensions"] == [".attn"]
    assert grammar["language"] == language["id"]
    assert json.loads((folder / grammar["path"]).read_text(encoding="utf-8")) == GRAMMAR
    assert grammar["scopeName"] == GRAMMAR["scopeName"]
    configuration = json.loads((folder / language["configuration"]).read_text(encoding="utf-8"))
    for pattern in configuration["indentationRules"].values():
        re.compile(pattern)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert manifest["version"] == project["version"]
