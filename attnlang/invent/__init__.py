"""Calls that nobody typed: from a variant and a shape to arguments that it accepts."""
