"""Is a message meant for the assistant?"""

from __future__ import annotations

from collections.abc import Iterable

#: What a trim removes: Unicode white space, line ends and the byte-order mark (as ECMAScript's `trim`).
_BLANK = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
_WORD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")


def trim(text: str) -> str:
    """The text without blanks at its ends, byte-order marks included."""
    return text.strip(_BLANK)


def default_trigger(assistant_name: str) -> str:
    """What wakes the assistant where the group has no trigger of its own."""
    return f"@{assistant_name}"


def triggers(text: str, trigger: str) -> bool:
    """Whether the text begins with the trigger, taken literally and in any case, and the word ends there.

    The word ends where the text does or where no letter, digit or underscore of ASCII follows.
    """
    wanted, found = trim(trigger), trim(text)
    rest = found[len(wanted):]
    return bool(wanted) and _same(found[:len(wanted)], wanted) and (not rest or rest[0] not in _WORD)


def _same(one: str, other: str) -> bool:
    return [_upper(char) for char in one] == [_upper(char) for char in other]


def _upper(char: str) -> str:
    # A look-alike outside ASCII (the Kelvin sign, the long s) never passes for an ASCII letter.
    upper = char.upper()
    return upper if len(upper) == 1 and (char.isascii() or not upper.isascii()) else char


def trigger_of(group_trigger: str, assistant_name: str) -> str:
    """The group's own trigger, or the default one where it is blank."""
    return trim(group_trigger) or default_trigger(assistant_name)


def should_wake(*, is_main: bool, requires_trigger: bool, trigger: str, texts: Iterable[str]) -> bool:
    """Whether these waiting messages are a reason to run the agent: one that triggers is enough.

    The main group, and groups that require no trigger, wake for any message.
    """
    waiting = list(texts)
    if is_main or not requires_trigger:
        return bool(waiting)
    return any(triggers(text, trigger) for text in waiting)
