"""Text on its way in and out of a chat."""

from __future__ import annotations

import re

from microclaw.core.trigger import trim

_SUBJECT = "Subject: "
_INTERNAL_TAG, _INTERNAL_END = "<internal>", "</internal>"

#: What a person does not see: controls, zero-width and filling characters, marks of direction, variation selectors,
#: Unicode's tags.
_HIDDEN = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
#: Where some of these belong to what is seen: the flags of regions; an emoji's or a letter's variant; joined emoji and
#: letters; one mark of direction beside a letter.
_SEEN, _SEEN_NOT_ASCII = f"[^{_HIDDEN}\\s]", f"[^\x00-\x7f{_HIDDEN}\\s]"
_FITTING = (
    "\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f"
    f"|(?:{_SEEN}[\ufe0e\ufe0f]|{_SEEN_NOT_ASCII}[\ufe00-\ufe0d\U000e0100-\U000e01ef])(?:\u200d(?={_SEEN_NOT_ASCII}))?"
    f"|{_SEEN_NOT_ASCII}[\u200c\u200d](?={_SEEN_NOT_ASCII})"
    f"|{_SEEN_NOT_ASCII}[\u061c\u200e\u200f](?![{_HIDDEN}])"
)
_ANY_HIDDEN = re.compile(f"[{_HIDDEN}]")
_HIDING = re.compile(f"(?P<fits>{_FITTING})|(?P<hidden>[{_HIDDEN}]+)")


def visible(text: str) -> str:
    """The text with what is written in it unseen replaced by a note of how much that was.

    A joiner inside an emoji, a variant selector and the like stay: they are part of what is seen.
    """
    if _ANY_HIDDEN.search(text) is None:
        return text  # nearly always, and quick to see
    return _HIDING.sub(_note, text)


def _note(found: re.Match[str]) -> str:
    if found["fits"]:
        return found[0]
    count = len(found[0])
    return f"[{count} hidden character{'s' if count > 1 else ''}]"


def with_subject(text: str, subject: str) -> str:
    """A letter's text with its subject above it. A command stays one: nothing stands above it."""
    return text if text.startswith("/") else f"{_SUBJECT}{' '.join(subject.split())}\n\n{text}".strip()


def without_subject(text: str) -> str:
    """The text that stood below the subject; the subject itself where that is all there is."""
    head, _, rest = text.partition("\n")
    return rest.strip() or head.removeprefix(_SUBJECT) if head.startswith(_SUBJECT) else text


def strip_internal(text: str) -> str:
    """The text without the agent's `<internal>…</internal>` notes, trimmed.

    No nesting: the first end tag ends a note. An unclosed or otherwise written tag is ordinary text.
    """
    return trim(_without_notes(text))


def _without_notes(text: str) -> str:
    # Not by a regular expression: on opened tags without end its time grows with their square.
    kept, at = [], 0
    while (start := text.find(_INTERNAL_TAG, at)) >= 0:
        end = text.find(_INTERNAL_END, start + len(_INTERNAL_TAG))
        if end < 0:
            break
        kept.append(text[at:start])
        at = end + len(_INTERNAL_END)
    return "".join([*kept, text[at:]])


def being_written(text: str) -> str:
    """What may be shown of an answer that is being written: nothing of an `<internal>` note, closed or not yet."""
    said = _without_notes(text).partition(_INTERNAL_TAG)[0]
    # The tag itself may be half written.
    half = next((size for size in range(len(_INTERNAL_TAG) - 1, 0, -1) if said.endswith(_INTERNAL_TAG[:size])), 0)
    return trim(said[:len(said) - half])


def outbound(text: str, assistant_name: str, *, prefix: bool = True) -> str:
    """What is to be said in a chat for this text of the agent; "" = nothing.

    `prefix` puts "Name: " before it, where the channel does not show who speaks.
    """
    said = strip_internal(text)
    return f"{assistant_name}: {said}" if said and prefix else said


def is_own_reply(text: str, assistant_name: str, flag: bool | None = None) -> bool:
    """Whether we wrote this message ourselves.

    The connector's flag decides. Only where there is none (a history of the original, which had no such flag)
    the prefix "Name:" tells, in any case.
    """
    if flag is not None:
        return flag
    return text.casefold().startswith(f"{assistant_name}:".casefold())


def is_worth_storing(text: str | None, *, attachments: int = 0) -> bool:
    """Whether a message has content at all; joins, reactions and the like have none."""
    return bool(text) or attachments > 0
