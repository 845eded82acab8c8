"""The check before a task: a script that runs in the group's sandbox first and decides whether the model is asked.

Its last line that is a JSON object with `wakeAgent` counts: `{"wakeAgent": false}` ends the run there, at no cost;
`{"wakeAgent": true, "data": …}` lets the model work, and tells it the data. A script that fails, takes too long or says
neither is a failed run: it is told, never passed over. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

#: A script is ended after this.
CHECK_S_MAX = 60.0
#: Longest data that the model is told, in characters of JSON.
DATA_CHARS_MAX = 16_000


@dataclass(frozen=True, slots=True)
class Checked:
    """What a script said."""

    wake: bool
    #: JSON for the model, "" = none.
    data: str = ""


class CheckError(Exception):
    """The script did not say what it found; the text is for the task's log and the owner."""


def read_check(output: str) -> Checked:
    """The decision in a script's output.

    :raises CheckError: there is none, or its data are too long.
    """
    for line in reversed(output.splitlines()):
        try:
            said = msgspec.json.decode(line.strip())
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(said, dict) and isinstance(said.get("wakeAgent"), bool):
            data = "" if said.get("data") is None else msgspec.json.encode(said["data"]).decode()
            if len(data) > DATA_CHARS_MAX:
                raise CheckError(f"its data have {len(data)} characters, at most {DATA_CHARS_MAX} are told")
            return Checked(said["wakeAgent"], data)
    raise CheckError('it printed no line like {"wakeAgent": false}')


def with_data(prompt: str, checked: Checked) -> str:
    """The task's prompt with what the script found."""
    return f"{prompt}\n\nWhat the check before this run found (JSON):\n{checked.data}" if checked.data else prompt
