"""A prompt as the router or the scheduler wrote it, taken apart again, for the backends that are no language model."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MESSAGE = re.compile(r"<message(?P<attributes>(?:\s[^<>]*)?)>(?P<text>.*?)</message>", re.DOTALL)
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
_CHILD = re.compile(r"<(\w+)\b[^<>]*(?:/>|>.*?</\1>)\n?", re.DOTALL)
_TASK = re.compile(r"\A\[SCHEDULED TASK[^\]]*\]\s*")


@dataclass(frozen=True)
class Message:
    """What one person wrote. The prompt of a task is a message without a sender."""

    sender: str
    #: When it was written, as the prompt says it.
    time: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """A whole prompt."""

    messages: tuple[Message, ...]
    is_task: bool = False


def read_prompt(prompt: str) -> Prompt:
    """The messages of a prompt; a text that holds none is one message."""
    if header := _TASK.match(prompt):
        body = prompt[header.end():]
        return Prompt((Message("", "", body.strip()),), is_task=True)
    found = tuple(
        Message(
            sender=(attributes := _attributes(match["attributes"])).get("sender", ""),
            time=attributes.get("time", ""),
            text=unescape(_CHILD.sub("", match["text"])).strip(),
        )
        for match in _MESSAGE.finditer(prompt)
    )
    return Prompt(found or (Message("", "", prompt.strip()),))


def _attributes(text: str) -> dict[str, str]:
    return {name: unescape(value) for name, value in _ATTRIBUTE.findall(text)}


def unescape(text: str) -> str:
    """The reverse of the prompt's escaping; the ampersand comes last, so that nothing is unescaped twice."""
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text
