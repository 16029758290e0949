"""What the tests of sema share: from text to variants and the codes of what is wrong."""

from __future__ import annotations

from attnlang.diagnostics import Diagnostic, Severity
from attnlang.ir import nodes as ir
from attnlang.ir.printer import print_expr
from attnlang.ir.verify import verify
from attnlang.sema import Analysis, ImportResolver, analyse
from attnlang.sources import Source
from attnlang.syntax.parser import parse


def analysed(text: str) -> Analysis:
    """Analyse text that has no syntax error."""
    result = parse(Source("<test>", text))
    assert not result.diagnostics, result.diagnostics
    return analyse(result.file, resolve=ImportResolver(None))


def spec(text: str) -> ir.Variant:
    """Return the only variant of a text about which nothing is to be said."""
    analysis = analysed(text)
    assert not analysis.diagnostics, [(d.code, d.headline) for d in analysis.diagnostics]
    (variant,) = analysis.variants
    verify(variant)
    return variant


def body(*statements: str, header: str = "t", defs: str = "") -> ir.Variant:
    """Return the variant of a header and its statements."""
    return spec(text_of(statements, header, defs))


def text_of(statements: tuple[str, ...], header: str, defs: str) -> str:
    return f"{defs}\nattention {header}:\n" + "".join(f"    {s}\n" for s in statements)


def diagnostics(*statements: str, header: str = "t", defs: str = "") -> tuple[Diagnostic, ...]:
    """Return what is wrong with a body."""
    analysis = analysed(text_of(statements, header, defs))
    errors = [d for d in analysis.diagnostics if d.severity == Severity.ERROR]
    assert errors or analysis.variants
    for variant in analysis.variants:
        verify(variant)
    return analysis.diagnostics


def codes(*statements: str, header: str = "t", defs: str = "") -> list[str]:
    """Return the codes of what is wrong with a body, in the order of the text."""
    return [d.code for d in diagnostics(*statements, header=header, defs=defs)]


def underlined(diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    return span.source.text[span.start : span.end]


def score(expression: str, header: str = "t", defs: str = "") -> str:
    """Return a score as it is understood."""
    return print_expr(body(f"score = {expression}", header=header, defs=defs).score)
