"""The abstract syntax tree: what was written, nothing more.

    File       = Item*
    Item       = Import | Def | Attention
    Attention  = name, params, doc, (Require | Assign)*
    Type       = (float | int | bool) with dims, or without
    Expr       = Number | Bool | NoneLiteral | Name | Unary | Binary | Compare | Logic
               | IfElse | Call | Index

Names are unresolved, types unchecked; `inf`, `pi` are names. Every node has its span; equality is
blind to spans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal

from attnlang.sources import Span

UnaryOp = Literal["-", "not"]
BinaryOp = Literal["+", "-", "*", "/", "//", "%", "**"]
CompareOp = Literal["==", "!=", "<", "<=", ">", ">="]
LogicOp = Literal["and", "or"]
Kind = Literal["float", "int", "bool"]


@dataclass(frozen=True, slots=True)
class Node:
    """The base of all AST nodes."""

    span: Span = field(kw_only=True, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number(Node):
    """An int or float literal."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Bool(Node):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class NoneLiteral(Node):
    """`none`: the absence of an optional tensor."""


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A name in an expression."""

    id: str


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`-x`, `not x`."""

    op: UnaryOp
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """An arithmetic operation."""

    op: BinaryOp
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """A comparison, perhaps chained: `operands[i] ops[i] operands[i + 1]`, pairwise `and`."""

    ops: tuple[CompareOp, ...]
    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """`left and right`, `left or right`."""

    op: LogicOp
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class IfElse(Node):
    """`then if condition else otherwise`."""

    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class Keyword(Node):
    """`name=value` in a call."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`function(args, name=value)`."""

    function: Name
    args: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True, slots=True)
class Slice(Node):
    """`start:stop` between brackets; either may be left out."""

    start: Expr | None
    stop: Expr | None


@dataclass(frozen=True, slots=True)
class Index(Node):
    """`base[i, j]`: a read of a tensor, or a slice of a vector."""

    base: Expr
    indices: tuple[Expr | Slice, ...]


Expr = Number | Bool | NoneLiteral | Name | Unary | Binary | Compare | Logic | IfElse | Call | Index


@dataclass(frozen=True, slots=True)
class Type(Node):
    """`float`, or `float[HQ, 2 * R + 1]`; `dims` is None for a scalar."""

    kind: Kind
    dims: tuple[Expr, ...] | None


@dataclass(frozen=True, slots=True)
class Param(Node):
    """A parameter of an attention, such as `const w: int = 5`; `name_span` is its name alone."""

    name: str
    type: Type
    default: Expr | None
    const: bool
    name_span: Span = field(kw_only=True, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Require(Node):
    """`require condition, "message"`."""

    condition: Expr
    message: str | None


@dataclass(frozen=True, slots=True)
class Assign(Node):
    """`name = value`: a result, a vector, `scale` or a local."""

    name: str
    value: Expr
    name_span: Span = field(kw_only=True, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Import(Node):
    """`from "path" import a, b`."""

    path: str
    names: tuple[Name, ...]
    path_span: Span = field(kw_only=True, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Def(Node):
    """`def name(args) = value`; `args` is None when it was written without parentheses."""

    name: str
    args: tuple[Name, ...] | None
    value: Expr
    name_span: Span = field(kw_only=True, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Attention(Node):
    """`attention name(params): "doc" statements`; `params` is None without parentheses."""

    name: str
    params: tuple[Param, ...] | None
    doc: str | None
    statements: tuple[Require | Assign, ...]
    name_span: Span = field(kw_only=True, compare=False, repr=False)


Item = Import | Def | Attention


@dataclass(frozen=True, slots=True)
class File(Node):
    """A whole file, items in their order."""

    items: tuple[Item, ...]


def children(node: Node) -> Iterator[Node]:
    """Yield the direct children of a node, in the order they were written."""
    for f in fields(node):
        value = getattr(node, f.name)
        if isinstance(value, Node):
            yield value
        elif isinstance(value, tuple):
            yield from (v for v in value if isinstance(v, Node))


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and everything below it, parents first."""
    stack: list[Node] = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(list(children(top))))
