"""From an AST to source text with the fewest parentheses, for tests of the parser."""

from __future__ import annotations

from attnlang.syntax import ast

# How tightly an operator binds, the loosest first.
CHOICE, OR, AND, NOT, COMPARE, SUM, PRODUCT, NEGATE, POWER, POSTFIX = range(10)
BINARY = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "//": PRODUCT, "%": PRODUCT}
ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


def unparse(node: ast.Node) -> str:
    match node:
        case ast.File(items=items):
            return "\n\n".join(unparse(item) for item in items)
        case ast.Import(path=path, names=names):
            return f"from {string(path)} import {', '.join(n.id for n in names)}"
        case ast.Def(name=name, args=args, value=value):
            listed = "" if args is None else f"({', '.join(a.id for a in args)})"
            return f"def {name}{listed} = {expr(value)}"
        case ast.Attention(name=name, params=params, doc=doc, statements=statements):
            listed = "" if params is None else f"({', '.join(param(p) for p in params)})"
            body = [string(doc)] if doc is not None else []
            body += [unparse(statement) for statement in statements]
            return "\n    ".join([f"attention {name}{listed}:", *body])
        case ast.Require(condition=condition, message=message):
            return f"require {expr(condition)}" + (f", {string(message)}" if message else "")
        case ast.Assign(name=name, value=value):
            return f"{name} = {expr(value)}"
        case _:
            raise AssertionError(node)


def param(p: ast.Param) -> str:
    const = "const " if p.const else ""
    dims = "" if p.type.dims is None else f"[{', '.join(expr(d) for d in p.type.dims)}]"
    default = "" if p.default is None else f" = {expr(p.default)}"
    return f"{const}{p.name}: {p.type.kind}{dims}{default}"


def string(text: str) -> str:
    return '"' + "".join(ESCAPES.get(c, c) for c in text) + '"'


def expr(e: ast.Expr | ast.Slice, level: int = CHOICE) -> str:
    text, own = _expr(e)
    return text if own >= level else f"({text})"


def _expr(e: ast.Expr | ast.Slice) -> tuple[str, int]:
    match e:
        case ast.Number(value=value):
            return repr(value), POSTFIX
        case ast.Bool(value=value):
            return str(value).lower(), POSTFIX
        case ast.NoneLiteral():
            return "none", POSTFIX
        case ast.Name(id=name):
            return name, POSTFIX
        case ast.Unary(op="not", operand=operand):
            return f"not {expr(operand, NOT)}", NOT
        case ast.Unary(operand=operand):
            return f"-{expr(operand, NEGATE)}", NEGATE
        case ast.Binary(op="**", left=left, right=right):
            return f"{expr(left, POSTFIX)} ** {expr(right, NEGATE)}", POWER
        case ast.Binary(op=op, left=left, right=right):
            own = BINARY[op]
            return f"{expr(left, own)} {op} {expr(right, own + 1)}", own
        case ast.Compare(ops=ops, operands=operands):
            parts = [expr(operands[0], SUM)]
            for op, operand in zip(ops, operands[1:], strict=True):
                parts += [op, expr(operand, SUM)]
            return " ".join(parts), COMPARE
        case ast.Logic(op=op, left=left, right=right):
            own = OR if op == "or" else AND
            return f"{expr(left, own)} {op} {expr(right, own + 1)}", own
        case ast.IfElse(condition=condition, then=then, otherwise=otherwise):
            return f"{expr(then, OR)} if {expr(condition, OR)} else {expr(otherwise)}", CHOICE
        case ast.Call(function=function, args=args, keywords=keywords):
            given = [*(expr(a) for a in args), *(f"{k.name}={expr(k.value)}" for k in keywords)]
            return f"{function.id}({', '.join(given)})", POSTFIX
        case ast.Index(base=base, indices=indices):
            return f"{expr(base, POSTFIX)}[{', '.join(expr(i) for i in indices)}]", POSTFIX
        case ast.Slice(start=start, stop=stop):
            ends = ["" if end is None else expr(end) for end in (start, stop)]
            return ":".join(ends), CHOICE
