"""The eager reference: a variant's meaning in torch, any dtype up to float64, differentiable."""

from attnlang.reference.entry import Rounding, reference

__all__ = ["Rounding", "reference"]
