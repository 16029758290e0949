"""From reductions of the grammar to AST nodes: one method a rule of `grammar/attn.lark`.

The parser calls a method with the rule's children, tokens included, when it reduces the rule, so
nothing here recurses. Invariant: an expression travels as a `Piece`, whose extent includes its
parentheses; a node's own span leaves them out, that of the node around it does not.
"""

# ruff: noqa: D102 -- a method is documented by the rule whose name it has.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from attnlang.sources import Source, Span
from attnlang.syntax import ast
from attnlang.syntax.tokens import Token


@dataclass(frozen=True, slots=True)
class Piece:
    """A node, and the extent that it was written on."""

    node: ast.Node
    extent: Span


Child = Piece | Token
Children = Sequence[Child]


class Builder:
    """The actions of the grammar."""

    def file(self, c: Children) -> tuple[ast.Item, ...]:
        return tuple(cast(ast.Item, p.node) for p in c if isinstance(p, Piece))

    def import_item(self, c: Children) -> Piece:
        _from, path, _import, names = c
        node = ast.Import(
            _text(path), _names(names), span=_whole(c), path_span=cast(Token, path).span
        )
        return _piece(node)

    def def_plain(self, c: Children) -> Piece:
        _def, name, _equal, value = c
        node = ast.Def(_text(name), None, _expr(value), span=_whole(c), name_span=_extent(name))
        return _piece(node)

    def def_function(self, c: Children) -> Piece:
        name, args = c[1], c[3]
        names = _names(args) if isinstance(args, Piece) else ()
        node = ast.Def(_text(name), names, _expr(c[-1]), span=_whole(c), name_span=_extent(name))
        return _piece(node)

    def attention_item(self, c: Children) -> Piece:
        params: tuple[ast.Param, ...] | None = None
        doc: str | None = None
        statements: list[ast.Require | ast.Assign] = []
        for child in c[2:]:
            match child:
                case Piece(node=_Params(params=found)):
                    params = found
                case Piece(node=ast.Require() | ast.Assign() as statement):
                    statements.append(statement)
                case Token(type="STRING", value=value):
                    doc = str(value)
        name = c[1]
        node = ast.Attention(
            _text(name),
            params,
            doc,
            tuple(statements),
            span=_whole(c),
            name_span=_extent(name),
        )
        return _piece(node)

    def params(self, c: Children) -> Piece:
        found = tuple(p.node for p in c if isinstance(p, Piece))
        return _piece(_Params(cast(tuple[ast.Param, ...], found), span=_whole(c)))

    def param(self, c: Children) -> Piece:
        const = _is(c[0], "CONST")
        name, type_ = (c[1], c[3]) if const else (c[0], c[2])
        default = _expr(c[-1]) if c[-1] is not type_ else None
        node = ast.Param(
            _text(name),
            cast(ast.Type, cast(Piece, type_).node),
            default,
            const,
            span=_whole(c),
            name_span=_extent(name),
        )
        return _piece(node)

    def type(self, c: Children) -> Piece:
        kind = cast(ast.Kind, _text(c[0]))
        dims = cast(_Dims, cast(Piece, c[1]).node).dims if len(c) > 1 else None
        return _piece(ast.Type(kind, dims, span=_whole(c)))

    def dims(self, c: Children) -> Piece:
        return _piece(_Dims(_exprs(c), span=_whole(c)))

    def require(self, c: Children) -> Piece:
        message = _text(c[3]) if len(c) > 2 else None
        return _piece(ast.Require(_expr(c[1]), message, span=_whole(c)))

    def assign(self, c: Children) -> Piece:
        name, _equal, value = c
        node = ast.Assign(_text(name), _expr(value), span=_whole(c), name_span=_extent(name))
        return _piece(node)

    def names(self, c: Children) -> Piece:
        found = tuple(_name(t) for t in c if isinstance(t, Token) and t.type == "NAME")
        return _piece(_Names(found, span=_whole(c)))

    def if_else(self, c: Children) -> Piece:
        then, _if, condition, _else, otherwise = c
        node = ast.IfElse(_expr(condition), _expr(then), _expr(otherwise), span=_whole(c))
        return _piece(node)

    def logic(self, c: Children) -> Piece:
        left, op, right = c
        node = ast.Logic(cast(ast.LogicOp, _text(op)), _expr(left), _expr(right), span=_whole(c))
        return _piece(node)

    def unary(self, c: Children) -> Piece:
        op, operand = c
        return _piece(ast.Unary(cast(ast.UnaryOp, _text(op)), _expr(operand), span=_whole(c)))

    def binary(self, c: Children) -> Piece:
        left, op, right = c
        node = ast.Binary(cast(ast.BinaryOp, _text(op)), _expr(left), _expr(right), span=_whole(c))
        return _piece(node)

    def compare(self, c: Children) -> Piece:
        ops = tuple(cast(ast.CompareOp, _text(op)) for op in c[1::2])
        operands = tuple(_expr(operand) for operand in c[0::2])
        return _piece(ast.Compare(ops, operands, span=_whole(c)))

    def compare_op(self, c: Children) -> Child:
        return c[0]

    def index(self, c: Children) -> Piece:
        found = tuple(p.node for p in c[1:] if isinstance(p, Piece))
        indices = cast(tuple[ast.Expr | ast.Slice, ...], found)
        return _piece(ast.Index(_expr(c[0]), indices, span=_whole(c)))

    def slice(self, c: Children) -> Piece:
        start = None if _is(c[0], "COLON") else _expr(c[0])
        stop = None if _is(c[-1], "COLON") else _expr(c[-1])
        return _piece(ast.Slice(start, stop, span=_whole(c)))

    def number(self, c: Children) -> Piece:
        value = cast(int | float, cast(Token, c[0]).value)
        return _piece(ast.Number(value, span=_whole(c)))

    def bool(self, c: Children) -> Piece:
        return _piece(ast.Bool(_is(c[0], "TRUE"), span=_whole(c)))

    def none(self, c: Children) -> Piece:
        return _piece(ast.NoneLiteral(span=_whole(c)))

    def name(self, c: Children) -> Piece:
        return _piece(_name(c[0]))

    def call(self, c: Children) -> Piece:
        given = next((p.node for p in c if isinstance(p, Piece)), _NO_ARGUMENTS)
        arguments = cast(_Arguments, given)
        node = ast.Call(_name(c[0]), arguments.args, arguments.keywords, span=_whole(c))
        return _piece(node)

    def arguments(self, c: Children) -> Piece:
        nodes = [p.node for p in c if isinstance(p, Piece)]
        keywords = tuple(n for n in nodes if isinstance(n, ast.Keyword))
        args = tuple(cast(ast.Expr, n) for n in nodes[: len(nodes) - len(keywords)])
        return _piece(_Arguments(args, keywords, span=_whole(c)))

    def keyword(self, c: Children) -> Piece:
        name, _equal, value = c
        return _piece(ast.Keyword(_text(name), _expr(value), span=_whole(c)))

    def parenthesised(self, c: Children) -> Piece:
        return Piece(cast(Piece, c[1]).node, _whole(c))


@dataclass(frozen=True, slots=True)
class _Arguments(ast.Node):
    args: tuple[ast.Expr, ...] = ()
    keywords: tuple[ast.Keyword, ...] = ()


@dataclass(frozen=True, slots=True)
class _Names(ast.Node):
    names: tuple[ast.Name, ...]


@dataclass(frozen=True, slots=True)
class _Params(ast.Node):
    params: tuple[ast.Param, ...]


@dataclass(frozen=True, slots=True)
class _Dims(ast.Node):
    dims: tuple[ast.Expr, ...]


_NO_ARGUMENTS = _Arguments(span=Span(Source("", ""), 0, 0))


def _piece(node: ast.Node) -> Piece:
    return Piece(node, node.span)


def _extent(child: Child) -> Span:
    return child.extent if isinstance(child, Piece) else child.span


def _whole(c: Children) -> Span:
    return _extent(c[0]).to(_extent(c[-1]))


def _text(child: Child) -> str:
    return str(cast(Token, child).value)


def _is(child: Child, type_: str) -> bool:
    return isinstance(child, Token) and child.type == type_


def _expr(child: Child) -> ast.Expr:
    return cast(ast.Expr, cast(Piece, child).node)


def _exprs(c: Children) -> tuple[ast.Expr, ...]:
    return tuple(_expr(p) for p in c if isinstance(p, Piece))


def _name(child: Child) -> ast.Name:
    return ast.Name(_text(child), span=_extent(child))


def _names(child: Child) -> tuple[ast.Name, ...]:
    return cast(_Names, cast(Piece, child).node).names
