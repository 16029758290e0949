"""Diagnostics as text: the exact form, label layout, widths, long lines, hostile characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnlang.diagnostics.base import Diagnostic, Label, Severity, SpecError
from attnlang.diagnostics.lines import cut, position, shown, width
from attnlang.diagnostics.render import render_text
from attnlang.sources import Source, Span


@dataclass(frozen=True, slots=True)
class Example(Diagnostic):
    code: ClassVar[str] = "A999"

    words: str = "this varies along the head dimension"
    others: tuple[Label, ...] = ()
    remarks: tuple[str, ...] = ()
    advice: str | None = None

    @property
    def headline(self) -> str:
        return "`score` must be a scalar"

    @property
    def label(self) -> str:
        return self.words

    @property
    def secondary(self) -> tuple[Label, ...]:
        return self.others

    @property
    def notes(self) -> tuple[str, ...]:
        return self.remarks

    @property
    def help(self) -> str | None:
        return self.advice


@dataclass(frozen=True, slots=True)
class Warned(Example):
    code: ClassVar[str] = "W999"
    severity: ClassVar[Severity] = Severity.WARNING


def at(source: Source, part: str, nth: int = 0) -> Span:
    start = -1
    for _ in range(nth + 1):
        start = source.text.index(part, start + 1)
    return Span(source, start, start + len(part))


def test_the_form() -> None:
    source = Source("examples/alibi.attn", "\n" * 6 + "    score = score + k\n")
    d = Example(
        span=at(source, "k"),
        remarks=("a note",),
        advice="a change to the key belongs in `k = ...`, before the dot product",
    )
    assert render_text(d) == "\n".join(
        [
            "error[A999]: `score` must be a scalar",
            "  --> examples/alibi.attn:7:21",
            "   |",
            " 7 |     score = score + k",
            "   |                     ^ this varies along the head dimension",
            "   = note: a note",
            "   = help: a change to the key belongs in `k = ...`, before the dot product",
        ]
    )


def test_a_warning_without_words() -> None:
    source = Source("x.attn", "abc")
    text = render_text(Warned(words="", span=at(source, "bc")))
    assert text.splitlines()[0].startswith("warning[W999]: ")
    assert text.splitlines()[-1] == "   |  ^^"


def test_several_labels_on_one_line() -> None:
    source = Source("x.attn", "aa + bb + cc")
    others = (Label(at(source, "aa"), "first"), Label(at(source, "cc"), "last"))
    lines = render_text(Example(words="middle", others=others, span=at(source, "bb"))).splitlines()
    assert lines[3:] == [
        " 1 | aa + bb + cc",
        "   | --   ^^   -- last",
        "   | |    |",
        "   | |    middle",
        "   | first",
    ]


def test_labels_that_overlap_get_rows_of_their_own() -> None:
    source = Source("x.attn", "f(a, b)")
    others = (Label(at(source, "f(a, b)"), "in this call"),)
    lines = render_text(Example(words="here", others=others, span=at(source, "a"))).splitlines()
    assert lines[4:] == ["   |   ^ here", "   | ------- in this call"]


def test_labels_on_several_lines_and_in_another_file() -> None:
    source = Source("x.attn", "one\ntwo\nthree\nfour\n")
    other = Source("y.attn", "\n" * 11 + "twelve")
    others = (
        Label(at(source, "one"), "above"),
        Label(at(source, "two"), "next"),
        Label(at(other, "twelve"), "elsewhere"),
    )
    text = render_text(Example(words="here", others=others, span=at(source, "four")))
    assert text.splitlines()[1:] == [
        "   --> x.attn:4:1",
        "    |",
        "  1 | one",
        "    | --- above",
        "  2 | two",
        "    | --- next",
        " ...",
        "  4 | four",
        "    | ^^^^ here",
        "    |",
        "   ::: y.attn:12:1",
        "    |",
        " 12 | twelve",
        "    | ------ elsewhere",
    ]


def test_a_span_of_several_lines_is_shown_by_its_first() -> None:
    source = Source("x.attn", "a = f(1,\n  2)\n")
    lines = render_text(Example(words="w", span=at(source, "f(1,\n  2)"))).splitlines()
    assert lines[3:] == [" 1 | a = f(1,", "   |     ^^^^ w"]


def test_empty_spans_and_empty_files() -> None:
    source = Source("x.attn", "ab")
    assert render_text(Example(words="", span=Span(source, 2, 2))).splitlines()[1:] == [
        "  --> x.attn:1:3",
        "   |",
        " 1 | ab",
        "   |   ^",
    ]
    empty = Source("x.attn", "")
    assert render_text(Example(words="", span=Span(empty, 0, 0))).splitlines()[3:] == [
        " 1 |",
        "   | ^",
    ]
    after = Source("x.attn", "ab\n")
    assert "x.attn:2:1" in render_text(Example(words="", span=Span(after, 3, 3)))


def test_tabs_wide_and_combining_characters() -> None:
    source = Source("x.attn", "a\tb日本e\u0301\U0001f600|x")
    for part, column, cells, marks in [
        ("b", 3, 4, 1),
        ("日本", 4, 5, 4),
        ("e\u0301", 6, 9, 1),
        ("\U0001f600", 8, 10, 2),
        ("|", 9, 12, 1),
    ]:
        lines = render_text(Example(words="", span=at(source, part))).splitlines()
        assert lines[1] == f"  --> x.attn:1:{column}"
        assert lines[3] == " 1 | a   b日本e\u0301\U0001f600|x"
        assert lines[4] == "   | " + " " * cells + "^" * marks


def test_control_characters_become_visible() -> None:
    source = Source("x\x1b[2J.attn", "a \x1b[31m \u202e b \x00 \x9b")
    d = Example(words="w\x1b", remarks=("n\x07",), advice="h\x08", span=at(source, "b"))
    for color in (False, True):
        text = render_text(d, color=color)
        for c in "\x00\x07\x08\x9b\u202e":
            assert c not in text
        assert "\x1b[31m \u202e" not in text
        assert "\x1b[2J" not in text
    plain = render_text(d)
    assert "\x1b" not in plain
    assert " 1 | a <U+001B>[31m <U+202E> b <U+0000> <U+009B>" in plain
    line, underline = plain.splitlines()[3:5]
    assert underline.index("^") == line.index(" b ") + 1


def test_long_lines_are_trimmed_round_the_label() -> None:
    source = Source("x.attn", "a" * 500 + "X" + "b" * 500)
    lines = render_text(Example(words="w", span=at(source, "X"))).splitlines()
    assert lines[1] == "  --> x.attn:1:501"
    shown_line, marks = lines[3].removeprefix(" 1 | "), lines[4].removeprefix("   | ")
    assert len(shown_line) == 106
    assert shown_line.startswith("...a")
    assert shown_line.endswith("b...")
    assert shown_line[marks.index("^")] == "X"
    start = render_text(Example(words="w", span=Span(source, 0, 2))).splitlines()
    assert start[3].startswith(" 1 | aaa")
    assert start[3].endswith("a...")
    end = render_text(Example(words="w", span=Span(source, 1000, 1001))).splitlines()
    assert end[3].endswith("b")
    assert end[4].index("^") == len(end[3]) - 1
    whole = render_text(Example(words="w", span=Span(source, 0, 1001))).splitlines()
    assert len(whole[4]) < 120


def test_a_long_line_of_wide_characters() -> None:
    source = Source("x.attn", "日" * 300 + "X" + "本" * 300)
    line, marks = render_text(Example(words="", span=at(source, "X"))).splitlines()[3:5]
    before = marks.removesuffix("^")
    assert width(line[: line.index("X")]) == len(before)


def test_a_line_of_a_megabyte_is_quick() -> None:
    source = Source("x.attn", "\u0301" * 500_000 + "X" + "日" * 500_000)
    for _ in range(20):
        text = render_text(Example(span=at(source, "X")))
    assert len(text) < 2000


def test_line_breaks_of_every_kind() -> None:
    source = Source("x.attn", "a\r\nb\rc\nd")
    places = {c: position(source, source.text.index(c)) for c in "abcd"}
    assert {c: (p.line, p.column) for c, p in places.items()} == {
        "a": (1, 1),
        "b": (2, 1),
        "c": (3, 1),
        "d": (4, 1),
    }
    assert " 2 | b" in render_text(Example(span=at(source, "b"))).splitlines()


def test_colour_changes_nothing_but_colour() -> None:
    import re

    source = Source("x.attn", "aa + bb")
    d = Example(others=(Label(at(source, "aa"), "x"),), advice="y", span=at(source, "bb"))
    colored = render_text(d, color=True)
    assert "\x1b[1;31m" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == render_text(d)


def test_a_help_of_several_lines_hangs() -> None:
    source = Source("x.attn", "a")
    lines = render_text(Example(advice="first\nsecond", span=at(source, "a"))).splitlines()
    assert lines[-2:] == ["   = help: first", "           second"]


def test_spec_error_shows_its_diagnostics() -> None:
    source = Source("x.attn", "a b")
    both = [Example(span=at(source, "a")), Warned(span=at(source, "b"))]
    assert str(SpecError(both)) == "\n\n".join(render_text(d) for d in both)


def test_shown_and_cut() -> None:
    assert shown("\t\ta").text == " " * 8 + "a"
    assert shown("ab\tc").cells == (0, 1, 2, 4, 5)
    assert cut("abcdef", 0, 10) == ("abcdef", 0)
    assert cut("abcdef", 2, 4) == ("...cd...", -1)
    assert cut("日本語", 1, 5) == ("...本...", -1)
