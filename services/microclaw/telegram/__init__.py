"""Telegram's connector: a bot on aiogram, by long polling.

`polling.py` stays connected and takes updates; `inbound.py` makes a message of one; `outbound.py` sends;
`formatting.py` turns Markdown into what Telegram shows. What is exactly once and what can be uncertain is in
docs/telegram.md.
"""

from microclaw.telegram.small_import import import_aiogram

# Before any room of this house imports aiogram: see there.
import_aiogram()
