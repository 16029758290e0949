"""Names, types and forms: from the AST to the checked, typed IR."""

from attnlang.sema.analyse import Analysis, analyse
from attnlang.sema.imports import ImportResolver

__all__ = ["Analysis", "ImportResolver", "analyse"]
