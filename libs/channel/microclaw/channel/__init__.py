"""What connectors share: a small library that they call, not a class to inherit from.

- `Channel` (`open.py`): a connector's database and the parts below, wired; read it first.
- `Inbound`: what the platform told goes to the journal, once, before the platform is told that we have it.
- `Outbound` and `Ledger`: a reply in parts, each sent once, or known to be uncertain; never sent blindly again.
- `Link`: connected or not, by evidence; connects again with growing pauses, and at once after the machine slept.
- `Pace`: how fast is too fast, for a chat and for all together.
- `Previews`: an answer shown while it is written, in the message that it becomes.
- `Media`: files by handle, their kind by their content.

A connector gives a `Platform` (how to send, how to find out after a crash) and a function that stays connected. See
docs/connectors.md for a whole one.
"""
