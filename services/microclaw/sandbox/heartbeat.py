"""A heartbeat whose file asks for nothing ends here, before a sandbox is started for it."""

from __future__ import annotations

from microclaw.core.heartbeat import EMPTY, FILE_BYTES_MAX, FILE_NAME, is_idle
from microclaw.core.home import Home
from microclaw.core.kinds import RunGranted
from microclaw.core.turns import End, failed, skipped
from microclaw.sandbox.reading import FileRefused, read_file

#: How the log calls a heartbeat of an assistant that can't think.
NO_MODEL = "no model is configured"


def not_needed(home: Home, grant: RunGranted, *, has_model: bool) -> End | None:
    """The end of a heartbeat that has nothing to do; None = the agent has to look (or it is no heartbeat)."""
    if grant.task is None or not grant.task.is_heartbeat:
        return None
    if not has_model:
        # The built-in skills would say every time that they don't understand.
        return skipped(grant, NO_MODEL)
    try:
        content = read_file(home.groups / grant.group, FILE_NAME, FILE_BYTES_MAX)
    except FileNotFoundError:
        return skipped(grant, EMPTY)
    except (FileRefused, OSError) as error:
        return failed(grant, f"the heartbeat's file can't be read: {error}", retryable=False)
    return skipped(grant, EMPTY) if is_idle(content.decode("utf-8", "replace")) else None
