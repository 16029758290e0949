"""What can be wrong with an import."""

# ruff: noqa: D102 -- the properties of messages are documented once, in the base class.

from __future__ import annotations

from dataclasses import dataclass

from attnlang.sema.report import SemaDiagnostic


@dataclass(frozen=True, slots=True)
class ImportNotFound(SemaDiagnostic):
    """There is no file of that path."""

    code = "A405"
    path: str
    reason: str

    @property
    def headline(self) -> str:
        return f'cannot find `"{self.path}"`'

    @property
    def label(self) -> str:
        return self.reason

    @property
    def notes(self) -> tuple[str, ...]:
        return ("a path is looked up from the importing file's folder, then from each `--include`",)


@dataclass(frozen=True, slots=True)
class ImportOutside(SemaDiagnostic):
    """The path is not one that an import may read."""

    code = "A406"
    path: str
    reason: str

    @property
    def headline(self) -> str:
        return f'`"{self.path}"` cannot be imported'

    @property
    def label(self) -> str:
        return self.reason

    @property
    def notes(self) -> tuple[str, ...]:
        return ("an import reads `.attn` files below the importing file's folder, and no others",)

    @property
    def help(self) -> str | None:
        return "a folder elsewhere is opened with `--include DIR`, in Python with `include=`"


@dataclass(frozen=True, slots=True)
class ImportCycle(SemaDiagnostic):
    """A file imports itself, perhaps through others."""

    code = "A407"
    path: str
    names: tuple[str, ...]

    @property
    def headline(self) -> str:
        return f'importing `"{self.path}"` leads back to this file'

    @property
    def label(self) -> str:
        return " -> ".join(f"`{n}`" for n in self.names)

    @property
    def help(self) -> str | None:
        return "move what both files need into a third one"


@dataclass(frozen=True, slots=True)
class NotImportable(SemaDiagnostic):
    """A file has no def of that name."""

    code = "A408"
    name: str
    path: str
    reason: str
    similar: str | None

    @property
    def headline(self) -> str:
        return f'cannot import `{self.name}` from `"{self.path}"`'

    @property
    def label(self) -> str:
        return self.reason

    @property
    def help(self) -> str | None:
        return f"a similar name exists: `{self.similar}`" if self.similar else None


@dataclass(frozen=True, slots=True)
class ImportUnreadable(SemaDiagnostic):
    """The file is there, but it is no text."""

    code = "A409"
    path: str
    reason: str

    @property
    def headline(self) -> str:
        return f'cannot read `"{self.path}"`'

    @property
    def label(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class ImportsTooMany(SemaDiagnostic):
    """Too many files, or files that are too large together."""

    code = "A410"
    what: str
    limit: int

    @property
    def headline(self) -> str:
        return f"more than {self.limit:,} {self.what} are imported"

    @property
    def label(self) -> str:
        return "this one is not read"
