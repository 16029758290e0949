"""From an AST to the indented tree that `show --stage ast` prints.

One node a line: its class, its own fields, and its children below it, each behind the name of the
field that holds it where there is one. Invariant: equal trees print alike; spans are not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from attnlang.syntax import ast

_INDENT = "  "
_HIDDEN = ("span", "name_span", "path_span")


def print_ast(node: ast.Node) -> str:
    """Return a node and everything below it, without a line break at the end."""
    return "\n".join(_lines(node))


def _lines(root: ast.Node) -> Iterator[str]:
    stack: list[tuple[ast.Node, str, int]] = [(root, "", 0)]
    while stack:
        node, role, depth = stack.pop()
        name = f"{role}: " if role else ""
        yield f"{_INDENT * depth}{name}{type(node).__name__}{_own(node)}"
        below = [(child, label, depth + 1) for label, child in _children(node)]
        stack.extend(reversed(below))


def _own(node: ast.Node) -> str:
    """Return the fields of a node that are no nodes, ` name=value` each."""
    out: list[str] = []
    for name, value in _fields(node):
        match value:
            case str() if name in ("id", "name", "kind", "op"):
                out.append(f" {value}")
            case str():
                out.append(f" {name}={_quoted(value)}")
            case bool() if isinstance(node, ast.Bool):
                out.append(f" {str(value).lower()}")
            case bool() if value:
                out.append(f" {name}")
            case int() | float() if not isinstance(value, bool):
                out.append(f" {value!r}")
            case (str(), *_):
                out.append(" " + " ".join(str(part) for part in value))
            case ():
                out.append(f" {name}=()" if _optional(node, name) else "")
            case _:
                pass
    return "".join(out)


def _children(node: ast.Node) -> Iterator[tuple[str, ast.Node]]:
    for name, value in _fields(node):
        if isinstance(value, ast.Node):
            yield (name, value)
        elif isinstance(value, tuple):
            yield from ((_singular(name), child) for child in value if isinstance(child, ast.Node))


def _fields(node: ast.Node) -> Iterator[tuple[str, object]]:
    for f in fields(node):
        if f.name not in _HIDDEN:
            yield (f.name, getattr(node, f.name))


def _singular(name: str) -> str:
    """Return the role of each child of a list; plain lists need none."""
    return {
        "args": "arg",
        "params": "",
        "keywords": "",
        "statements": "",
        "items": "",
        "names": "",
        "operands": "",
        "dims": "dim",
        "indices": "at",
    }[name]


def _optional(node: ast.Node, name: str) -> bool:
    """Whether an empty list differs from none: `attention f():` from `attention f:`."""
    return isinstance(node, ast.Def | ast.Attention) and name in ("args", "params")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t") + '"'
