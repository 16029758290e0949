"""The record of one rule that applied, for the report. A lowered variant keeps these."""

from __future__ import annotations

from dataclasses import dataclass

from attnlang.ir.nodes import Expr


@dataclass(frozen=True, slots=True)
class Fired:
    """One rule that applied at one node."""

    rule: str
    before: Expr
    after: Expr
