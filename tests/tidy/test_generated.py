"""What is generated from the kinds is fresh."""

from __future__ import annotations

from pathlib import Path

from microclaw.core.kinds_page import page

ROOT = Path(__file__).parents[2]


def test_the_page_of_message_kinds_is_fresh() -> None:
    assert (ROOT / "docs/kinds.md").read_text() == page(), "python -m microclaw.core.kinds_page > docs/kinds.md"
