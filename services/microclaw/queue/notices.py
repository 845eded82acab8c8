"""What the house says in a chat when a run failed for good, or waits for long: friendly, short, with what to do next.

The cause is named to the owner only, in the main chat: in a group it would be noise, and may say too much. So a run of
another group that failed for good is told twice: there, and to the owner.
"""

from __future__ import annotations

from microclaw.bus.api import Draft
from microclaw.core.dispatch import Notice
from microclaw.core.ids import derived_id, id_from_text, id_time
from microclaw.core.kinds import ReplyRequested

#: The same cause is told to the owner at most once in this time, however many groups suffer from it.
OWNER_QUIET_MS = 3600 * 1000
#: Of the cause, at most.
CAUSE_CHARS_MAX = 300

AFTER_RETRIES = (
    "Sorry, I could not answer, though I tried several times. Nothing is lost: write again and I take it up once more."
)
NEEDS_OWNER = (
    "Sorry, I cannot answer right now: something has to be put right first. "
    "Nothing is lost: write again when it is, and I take it up."
)
WAITS = "Sorry, I cannot answer right now. Nothing is lost: I answer as soon as I can, you need not write again."
TASK_WAITS = (
    "Sorry, a scheduled task cannot run right now, and I cannot answer either. "
    "Nothing is lost: it runs, and I answer, as soon as I can."
)
OWNER_HINT = " (`microclaw status` shows more.)"


def notice_text(notice: Notice) -> str:
    """The one line for the chat."""
    waits = TASK_WAITS if notice.run.fire else WAITS
    text = waits if notice.waits else AFTER_RETRIES if notice.again else NEEDS_OWNER
    if not notice.run.is_main:
        return text
    cause = " ".join(notice.error.split())[:CAUSE_CHARS_MAX]
    return text + (f" The cause: {cause}" if cause else "") + OWNER_HINT


def notice_draft(notice: Notice, now_ms: int) -> Draft:
    """The reply that carries it; the same grant's notice is the same message."""
    run = notice.run
    return Draft(
        run.chat,
        ReplyRequested(chat=run.chat, text=notice_text(notice), origin="notice", run_id=run.run_id),
        message_id=derived_id(id_time(id_from_text(run.run_id)), "notice", run.run_id, run.granted_ms),
        ts_ms=now_ms,
    )


def owner_draft(notice: Notice, owner_chat: str, now_ms: int) -> Draft | None:
    """What the owner is told of a run that failed elsewhere. None: the chat's own notice says it, or nobody knows where
    the owner is."""
    run = notice.run
    if run.is_main or not owner_chat or owner_chat == run.chat:
        return None
    cause = " ".join(notice.error.split())[:CAUSE_CHARS_MAX]
    waits = "A scheduled task waits" if run.fire else "I cannot answer yet"
    what = waits if notice.waits else "I could not answer"
    text = f"{what} in {run.group} ({run.chat})" + (f". The cause: {cause}" if cause else ".") + OWNER_HINT
    return Draft(
        owner_chat, ReplyRequested(chat=owner_chat, text=text, origin="notice", run_id=run.run_id),
        message_id=derived_id(id_time(id_from_text(run.run_id)), "owner notice", run.run_id, run.granted_ms),
        ts_ms=now_ms,
    )
