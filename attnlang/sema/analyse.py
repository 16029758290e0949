"""From a parsed file to its variants: names, kinds and forms checked, defs and locals inlined.

One run reports every independent error: those of imports and defs, then those of each attention.
A variant with an error is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attnlang.diagnostics.base import Diagnostic
from attnlang.ir import nodes as ir
from attnlang.sema.attention import lower_attention
from attnlang.sema.imports import ImportResolver, Loader
from attnlang.sema.modules import prelude
from attnlang.sema.report import Reporter
from attnlang.sema.unread import unread_items
from attnlang.sources import Source
from attnlang.syntax import ast


@dataclass(frozen=True, slots=True)
class Analysis:
    """The sound variants of a file in their order, and everything that is to be said about it."""

    variants: tuple[ir.Variant, ...]
    diagnostics: tuple[Diagnostic, ...]


def analyse(
    file: ast.File, *, resolve: ImportResolver, broken: frozenset[str] = frozenset()
) -> Analysis:
    """Analyse a file. `broken` are the names of items that had a syntax error."""
    reporter = Reporter(prelude().source)
    loader = Loader(reporter)
    source = file.span.source
    if resolve.root is not None:
        loader.stack.append((resolve.root / Path(source.path).name).resolve())
    module = loader.module(file, resolve, broken)
    variants: list[ir.Variant] = []
    for item in file.items:
        if isinstance(item, ast.Attention):
            variant = lower_attention(item, module, reporter)
            if variant is not None and module.attentions[item.name] == item.name_span:
                variants.append(variant)
    if not broken:
        for warning in unread_items(file):
            reporter.report_unless_wrong(warning)
    return Analysis(tuple(variants), _in_order(reporter.diagnostics, source))


def _in_order(diagnostics: list[Diagnostic], source: Source) -> tuple[Diagnostic, ...]:
    """Return what was said about imported files as it came, then this file's by place."""
    imported = [d for d in diagnostics if d.span.source is not source]
    own = [d for d in diagnostics if d.span.source is source]
    return (*imported, *sorted(own, key=lambda d: d.span.start))
