"""The limits on one parsed item: the depth of its expressions, the length of its lists.

Nothing here recurses: this is what allows later stages to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attnlang.diagnostics.base import Diagnostic
from attnlang.syntax import ast
from attnlang.syntax import diagnostics as d
from attnlang.syntax.limits import MAX_DEPTH, MAX_NAMES
from attnlang.syntax.tokens import CLOSERS, OPENERS, Token


def beyond_limits(items: Sequence[ast.Item]) -> Iterator[Diagnostic]:
    """Yield what in the items exceeds a limit."""
    for item in items:
        yield from _names(item)
        for root in _expressions(item):
            if _too_deep(root):
                yield d.NestedTooDeeply(MAX_DEPTH, span=root.span)


def too_many_brackets(tokens: Sequence[Token]) -> Token | None:
    """Return the first bracket that is open inside too many others."""
    depth = 0
    for token in tokens:
        if token.type in OPENERS:
            depth += 1
        elif token.type in CLOSERS:
            depth = max(depth - 1, 0)
        if depth > MAX_DEPTH:
            return token
    return None


def _names(item: ast.Item) -> Iterator[Diagnostic]:
    match item:
        case ast.Attention(params=params) if params is not None and len(params) > MAX_NAMES:
            yield d.TooMany("parameters", MAX_NAMES, span=params[MAX_NAMES].span)
        case ast.Def(args=args) if args is not None and len(args) > MAX_NAMES:
            yield d.TooMany("arguments", MAX_NAMES, span=args[MAX_NAMES].span)
        case ast.Import(names=names) if len(names) > MAX_NAMES:
            yield d.TooMany("imported names", MAX_NAMES, span=names[MAX_NAMES].span)
        case _:
            pass


def _expressions(item: ast.Item) -> Iterator[ast.Node]:
    """Yield the outermost expressions of an item."""
    match item:
        case ast.Import():
            return
        case ast.Def(value=value):
            yield value
        case ast.Attention(params=params, statements=statements):
            for param in params or ():
                yield from param.type.dims or ()
                if param.default is not None:
                    yield param.default
            for statement in statements:
                yield statement.value if isinstance(statement, ast.Assign) else statement.condition


def _too_deep(root: ast.Node) -> bool:
    """Whether an expression has a node beyond the depth limit."""
    stack: list[tuple[ast.Node, int]] = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            return True
        stack.extend((child, depth + 1) for child in ast.children(node))
    return False
