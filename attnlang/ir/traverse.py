"""Walking and rewriting IR expressions, each shared node once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import get_args

from attnlang.ir.nodes import Expr, Node

_EXPR = get_args(Expr)
# By class, for asking a node for its fields costs more than walking over them.
_FIELDS = {kind: tuple(f.name for f in fields(kind)) for kind in _EXPR}


def children(expr: Expr) -> Iterator[Expr]:
    """Yield the direct operands of an expression."""
    for name in _FIELDS[type(expr)]:
        value = getattr(expr, name)
        if type(value) in _FIELDS:
            yield value
        elif isinstance(value, tuple):
            yield from (v for v in value if type(v) in _FIELDS)


def walk(*roots: Expr) -> Iterator[Expr]:
    """Yield every expression below the roots once, operands before their users."""
    seen: set[int] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        expr, done = stack.pop()
        if done:
            yield expr
        elif id(expr) not in seen:
            seen.add(id(expr))
            stack.append((expr, True))
            stack.extend((c, False) for c in reversed(list(children(expr))))


def map_children(expr: Expr, f: Callable[[Expr], Expr]) -> Expr:
    """Return the expression with `f` applied to its operands; itself when nothing changed."""
    changes: dict[str, object] = {}
    for fld in fields(expr):
        value = getattr(expr, fld.name)
        if isinstance(value, _EXPR):
            new = f(value)
            if new is not value:
                changes[fld.name] = new
        elif isinstance(value, tuple) and any(isinstance(v, Node) for v in value):
            new_items = tuple(f(v) if isinstance(v, _EXPR) else v for v in value)
            if any(a is not b for a, b in zip(new_items, value, strict=True)):
                changes[fld.name] = new_items
    return replace(expr, **changes) if changes else expr  # type: ignore[arg-type]


def rewrite(root: Expr, f: Callable[[Expr], Expr]) -> Expr:
    """Rebuild an expression bottom-up: `f` sees each node once, with its operands rewritten."""
    done: dict[int, Expr] = {}
    for expr in walk(root):
        done[id(expr)] = f(map_children(expr, lambda child: done[id(child)]))
    return done[id(root)]
