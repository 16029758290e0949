"""Loading specs: from a `.attn` file or a string to callable variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnlang.compiler import check_source
from attnlang.diagnostics.suggest import nearest
from attnlang.ir.nodes import Variant as VariantIr
from attnlang.jit.memo import remembered
from attnlang.ops.errors import CallError
from attnlang.ops.variant import Variant
from attnlang.sources import Source
from attnlang.syntax.reading import read_text, with_line_feeds

PathLike = str | Path


def load(path: PathLike, name: str | None = None, include: Sequence[PathLike] = ()) -> Variant:
    """Load the variant `name` of a file; without a name, its only one.

    `include` lists further folders from which the file may import. Raises SpecError when the spec
    is wrong, CallError when the name does not say which variant is meant, OSError for the file.
    """
    return _pick(load_all(path, include), name, str(path))


def load_all(path: PathLike, include: Sequence[PathLike] = ()) -> dict[str, Variant]:
    """Load every variant of a file, by name, in the file's order."""
    file = Path(path)
    try:
        text = with_line_feeds(read_text(file))
    except UnicodeDecodeError as error:
        raise CallError("path", "a UTF-8 text file", f"{file}: {error}") from error
    return _check(Source(str(path), text), file.parent, include)


def loads(text: str, name: str | None = None, include: Sequence[PathLike] = ()) -> Variant:
    """Load a variant from a string; imports are looked up in `include` alone."""
    if not isinstance(text, str):
        raise CallError("text", "a string", type(text).__name__)
    return _pick(_check(Source("<string>", text), None, include), name, "<string>")


def _check(source: Source, folder: Path | None, include: Sequence[PathLike]) -> dict[str, Variant]:
    def checked() -> tuple[VariantIr, ...]:
        result = check_source(source, folder=folder, include=[Path(p) for p in include])
        result.raise_errors()
        return result.variants

    alone = "import" not in source.text  # what it imports may change, and is read each time
    variants = remembered("checked", (source.path, source.text), checked) if alone else checked()
    return {v.name: Variant(v) for v in variants}


def _pick(variants: dict[str, Variant], name: str | None, where: str) -> Variant:
    if not variants:
        raise CallError("path", "a spec with an attention", f"none in {where}")
    names = ", ".join(variants)
    if name is None:
        if len(variants) == 1:
            return next(iter(variants.values()))
        expected = f"a name, for {where} has {len(variants)} variants"
        raise CallError("name", expected, "none", help=f"it has: {names}")
    if name not in variants:
        close = nearest(name, list(variants))
        tip = f"a similar name exists: `{close}`" if close else f"it has: {names}"
        raise CallError("name", f"a variant of {where}", f"{name!r}", help=tip)
    return variants[name]
