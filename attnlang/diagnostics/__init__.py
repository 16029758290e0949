"""Diagnostics: what is wrong with a spec, as data; the renderers turn them into text and JSON."""

from attnlang.diagnostics.base import Diagnostic, Label, Severity, SpecError

__all__ = ["Diagnostic", "Label", "Severity", "SpecError"]
