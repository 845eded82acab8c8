"""The agent's Markdown, as Discord shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.discord.markdown import discord_markdown


@pytest.mark.parametrize(("written", "shown"), [
    ("plain *text* with [a link](https://a.b) and ~~gone~~", "plain *text* with [a link](https://a.b) and ~~gone~~"),
    ("__bold__ and **bold**, snake__case__name", "**bold** and **bold**, snake__case__name"),
    ("`__code__` and ``a ` || b``", "`__code__` and ``a ` || b``"),
    ("a || b || c", r"a \|\| b \|\| c"),
    ("![a cat](https://a.b/c.png) ![](https://a.b/d.png)",
     "[a cat](https://a.b/c.png) [https://a.b/d.png](https://a.b/d.png)"),
    ("# one\n## two ##\n#### four", "# one\n## two ##\n**four**"),
    ("#### a **b** c", "**a b c**"),
    ("Title\n=====\ntext", "# Title\ntext"),
    ("a\n\n---\n\nb", "a\n\n———\n\nb"),
    ("> __q__\n> - __l__", "> **q**\n> - **l**"),
    ("| a | **b** |\n|---|:-:|\n| 1 | `x\\|y` |\n| long cell |",
     "```\na          b\n─────────  ───\n1          x|y\nlong cell\n```"),
    ("| a |\n|---|\n| ``` |", "```\na\n───\n'''\n```"),
    ("- one\n\n  | a |\n  |---|\n  | 1 |", "- one\n\n  | a |\n  |---|\n  | 1 |"),
])
def test_what_discord_shows_otherwise_is_written_otherwise_and_nothing_else(written: str, shown: str) -> None:
    assert discord_markdown(written) == shown


def test_code_stays_as_it_is() -> None:
    code = "```md\n# x\n__a__ || b\n| a | b |\n|---|---|\n---\n```"
    assert discord_markdown(f"see:\n\n{code}\n\nend") == f"see:\n\n{code}\n\nend"


@given(st.text(alphabet=" \n#*_|`-=>![]()ab1", max_size=80))
def test_no_text_is_too_odd_and_words_are_never_lost(text: str) -> None:
    shown = discord_markdown(text)
    assert [char for char in shown if char in "ab"] == [char for char in text if char in "ab"] or "![" in text
