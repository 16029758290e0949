"""Reads imported files, and only those that an import may read.

Maps `from "path" import names` to defs. Invariant: nothing but a regular `.attn` file below the
importing file's folder, or below an include folder, is opened, wherever links lead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from attnlang.sema.def_names import check_defs
from attnlang.sema.import_errors import (
    ImportCycle,
    ImportNotFound,
    ImportOutside,
    ImportsTooMany,
    ImportUnreadable,
    NotImportable,
)
from attnlang.sema.modules import Module, prelude
from attnlang.sema.names import reserved
from attnlang.sema.report import Reporter
from attnlang.sources import Source
from attnlang.syntax import ast
from attnlang.syntax.limits import MAX_TOKENS
from attnlang.syntax.parser import ParseResult, parse
from attnlang.syntax.reading import read_text, with_line_feeds

MAX_FILES: Final = 64
MAX_WORDS: Final = 60_000  # of all imported files, the last one apart
MAX_CHARACTERS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A file that an import may read: its real path, and the path that messages show."""

    real: Path
    shown: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an import's path is refused; `missing` where there is merely no such file."""

    reason: str
    missing: bool = False


@dataclass(frozen=True, slots=True)
class ImportResolver:
    """Where imports are looked up: the importing file's folder (None: a string's), then others."""

    root: Path | None
    include: tuple[Path, ...] = ()

    def below(self, folder: Path) -> ImportResolver:
        """Return the resolver for a file that lies in `folder`."""
        return ImportResolver(folder, self.include)

    def find(self, path: str, shown_from: str = "") -> Found | Refused:
        """Find the file that an import's path means; `shown_from` is the importing file's path."""
        if (reason := _bad_path(path)) is not None:
            return Refused(reason)
        places: list[tuple[Path, str]] = []
        if self.root is not None:
            places.append((self.root, str(Path(shown_from).parent / path)))
        places.extend((folder, str(folder / path)) for folder in self.include)
        if not places:
            return Refused("text without a file has no folder; give one as `include`", True)
        for folder, shown in places:
            try:
                base = folder.resolve()
                real = (base / path).resolve()
                if not real.is_relative_to(base):
                    return Refused("it leads out of the folder")
                if real.is_file():
                    return Found(real, shown)
                if real.exists():
                    return Refused("it is not a regular file")
            except (OSError, RuntimeError, ValueError):
                continue
        return Refused("no such file", True)


def _bad_path(path: str) -> str | None:
    parts = path.split("/")
    if not path.endswith(".attn") or parts[-1] == ".attn":
        return "only `.attn` files can be imported"
    if path.startswith(("/", "~")) or "\\" in path or ":" in parts[0]:
        return "the path must be relative, with `/` between folders"
    if _climbs(parts):
        return "it leads out of the folder"
    if any(not c.isprintable() for c in path):
        return "the path holds a control character"
    return None


def _climbs(parts: list[str]) -> bool:
    """Whether a path leaves its folder on its way."""
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return True
    return False


@dataclass(slots=True)
class Loader:
    """Loads the modules of one run, each file once, as long as they are not too large together."""

    reporter: Reporter
    loaded: dict[Path, Module] = field(default_factory=dict)
    stack: list[Path] = field(default_factory=list)
    words: int = 0
    characters: int = 0

    def module(self, file: ast.File, resolver: ImportResolver, broken: frozenset[str]) -> Module:
        """Return the names of a parsed file, after loading what it imports."""
        module = Module(file.span.source, prelude())
        module.broken.update(broken)
        for item in file.items:
            match item:
                case ast.Import():
                    self._import(item, module, resolver)
                case ast.Def():
                    module.add_def(item, self.reporter)
                case ast.Attention():
                    module.add_attention(item, self.reporter)
        check_defs(module, self.reporter)
        return module

    def _import(self, item: ast.Import, module: Module, resolver: ImportResolver) -> None:
        found = self._load(item, module, resolver)
        for name in item.names:
            if not module.enter(name.id, name.span, self.reporter):
                continue
            if found is None or found.is_broken(name.id):
                module.broken.add(name.id)
            elif (reason := reserved(name.id, module.prelude_names)) is not None:
                module.broken.add(name.id)
                error = NotImportable(name.id, item.path, f"it is {reason}", None, span=name.span)
                self.reporter.report(error)
            elif (info := found.own.get(name.id)) is not None:
                module.defs[name.id] = info
            else:
                module.broken.add(name.id)
                self._not_there(item, name, found)

    def _not_there(self, item: ast.Import, name: ast.Name, found: Module) -> None:
        reason, similar = "the file defines no such name", self.reporter.suggest(name.id, found.own)
        if name.id in found.attentions:
            reason = "it is an attention, and only defs can be imported"
        elif name.id in found.defs:
            reason = "the file itself imports it from another one"
        error = NotImportable(name.id, item.path, reason, similar, span=name.span)
        self.reporter.report(error)

    def _load(self, item: ast.Import, module: Module, resolver: ImportResolver) -> Module | None:
        place = resolver.find(item.path, module.source.path)
        if isinstance(place, Refused):
            kind = ImportNotFound if place.missing else ImportOutside
            self.reporter.report(kind(item.path, place.reason, span=item.path_span))
            return None
        if place.real in self.stack:
            names = (*(p.name for p in self.stack[self.stack.index(place.real) :]), place.real.name)
            self.reporter.report(ImportCycle(item.path, names, span=item.path_span))
            return None
        if place.real in self.loaded:
            return self.loaded[place.real]
        for what, spent, limit in (
            ("files", len(self.loaded) + len(self.stack), MAX_FILES),
            ("words and signs", self.words, MAX_WORDS),
            ("characters", self.characters, MAX_CHARACTERS),
        ):
            if spent >= limit:
                self.reporter.report(ImportsTooMany(what, limit, span=item.path_span))
                return None
        return self._read(item, place, resolver)

    def _read(self, item: ast.Import, place: Found, resolver: ImportResolver) -> Module | None:
        text = _text(place.real)
        if isinstance(text, Refused):
            error = ImportUnreadable(item.path, text.reason, span=item.path_span)
            self.reporter.report(error)
            return None
        result: ParseResult = parse(Source(place.shown, text))
        self.words += len(result.tokens)
        self.characters += len(text)
        for diagnostic in result.diagnostics:
            self.reporter.report(diagnostic)
        if result.diagnostics and not result.tokens:  # too large: which names it has is not known
            self.words += MAX_TOKENS
            return None
        self.stack.append(place.real)
        module = self.module(result.file, resolver.below(place.real.parent), result.broken)
        self.stack.pop()
        self.loaded[place.real] = module
        return module


def _text(path: Path) -> str | Refused:
    try:
        return with_line_feeds(read_text(path))
    except OSError as error:
        return Refused(error.strerror.lower() if error.strerror else "it cannot be opened")
    except UnicodeDecodeError:
        return Refused("it is not UTF-8 text")
