"""How a tool says no."""

from __future__ import annotations


class ToolError(Exception):
    """The tool could not do it; the text is for the model: what, why, what to do instead."""
