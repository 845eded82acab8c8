"""Masking secret values in what passes: plain, as JSON and URLs write them, in hexadecimal and base64.

A mask is exactly as long as what it covers, so that a `Content-Length` stays true. `StreamScrubber` does it chunk by
chunk: it holds back only bytes that may be the beginning of a secret, so streamed answers are not delayed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

#: A shorter value can't be a secret: masking it would tear holes into ordinary text.
SECRET_CHARS_MIN = 8
#: A longer value is refused: every stream holds back as much as the longest form, at most.
SECRET_CHARS_MAX = 4096

_LABEL = b"[REDACTED]"
#: Blocks that are looked up where it is asked whether a text may hold a secret at all: how long they are, and how far
#: apart. Long ones are seldom found by chance, short ones lie further apart within the beginning of a short secret.
_BLOCK_BYTES_MIN, _BLOCK_BYTES_MAX = 4, 8
_STEP_BYTES_MAX = 32
#: By so many bytes a form's beginning is found.
_HEAD_BYTES = 4


def forms(secret: str) -> frozenset[bytes]:
    """The byte strings by which `secret` is recognised.

    Base64 is covered wherever the secret stands in the encoded text: of the three alignments, the characters that
    depend on the secret alone.
    """
    raw = secret.encode()
    found = {raw, json.dumps(secret)[1:-1].encode(), quote(secret, safe="").encode(), raw.hex().encode()}
    found.add(raw.hex().upper().encode())
    for lead in range(3):
        encoded = base64.b64encode(b"\0" * lead + raw).rstrip(b"=")
        # The first characters mix in what stands before, the last one what comes after.
        begin = (0, 2, 3)[lead]
        end = len(encoded) if (lead + len(raw)) % 3 == 0 else len(encoded) - 1
        core = encoded[begin:end]
        found |= {core, core.translate(bytes.maketrans(b"+/", b"-_"))}
    return frozenset(form for form in found if len(form) >= SECRET_CHARS_MIN)


def mask(length: int) -> bytes:
    """What stands in the place of `length` secret bytes."""
    return (_LABEL + b"*" * (length - len(_LABEL))) if length >= len(_LABEL) else b"*" * length


class Scrubber:
    """Masks the forms of these secrets. Immutable: a changed set of secrets is a new `Scrubber`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        patterns = {form for secret in secrets if len(secret) >= SECRET_CHARS_MIN for form in forms(secret)}
        ordered = sorted(patterns, key=lambda form: (-len(form), form))
        self._regex = re.compile(_one_of(ordered)) if ordered else None
        #: The forms by their first bytes, `_HEAD_BYTES` of them or fewer.
        self._by_head: dict[bytes, list[bytes]] = {}
        for form in ordered:
            for length in range(1, _HEAD_BYTES + 1):
                self._by_head.setdefault(form[:length], []).append(form)
        self._longest = len(ordered[0]) if ordered else 0
        shortest = len(ordered[-1]) if ordered else SECRET_CHARS_MIN
        self._block = max(_BLOCK_BYTES_MIN, min(shortest // 2, _BLOCK_BYTES_MAX))
        self._step = min(shortest - self._block + 1, _STEP_BYTES_MAX)
        self._blocks = frozenset(form[at:at + self._block] for form in ordered for at in range(self._step))

    def masked(self, data: bytes) -> bytes:
        """`data`, equally long, with every secret masked."""
        if self._regex is None or not self._may_hold(data):
            return data
        return self._regex.sub(lambda match: mask(len(match[0])), data)

    def masked_text(self, text: str) -> str:
        """`text` with every secret masked."""
        return self.masked(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def holds(self, data: bytes) -> bool:
        """Whether a secret is in `data`."""
        return self._regex is not None and self._may_hold(data) and self._regex.search(data) is not None

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """(`data` masked as far as that can be known, the end that may be the beginning of a secret)."""
        if self._regex is None:
            return data, b""
        held = self._first_unfinished(data, 0)
        if not self._may_hold(data):
            return data[:held], data[held:]
        out: list[bytes] = []
        start = 0
        while True:
            if held < start:
                held = self._first_unfinished(data, start)
            match = self._regex.search(data, start)
            # A match counts only if nothing that began before it, or there and longer, is still open.
            if match is None or held <= match.start():
                out.append(data[start:held])
                return b"".join(out), data[held:]
            out += (data[start:match.start()], mask(len(match[0])))
            start = match.end()

    def _first_unfinished(self, data: bytes, start: int) -> int:
        """The first position from which `data` to its end is the beginning of a form; its length if there is none."""
        for at in range(max(start, len(data) - self._longest + 1), len(data)):
            if begun := self._by_head.get(data[at:at + _HEAD_BYTES]):
                tail = data[at:]
                if any(len(form) > len(tail) and form.startswith(tail) for form in begun):
                    return at
        return len(data)

    def _may_hold(self, data: bytes) -> bool:
        """False: no form is in `data`, told without looking at each byte. Wherever a form stands, one of these blocks
        lies whole within its beginning."""
        size = self._block
        places = range(0, len(data) - size + 1, self._step)
        return not self._blocks.isdisjoint([data[at:at + size] for at in places])


def _one_of(ordered: list[bytes]) -> bytes:
    """The pattern of any of these forms; of two that begin at the same place the one that comes first in the list.
    In two steps, by their first two bytes: one long list would be tried to its end at each byte of a text."""
    nested: dict[int, dict[int, list[bytes]]] = {}
    for form in ordered:
        nested.setdefault(form[0], {}).setdefault(form[1], []).append(re.escape(form[2:]))
    return b"|".join(
        re.escape(bytes((first,))) + b"(?:" + b"|".join(
            re.escape(bytes((second,))) + b"(?:" + b"|".join(rest) + b")" for second, rest in seconds.items()
        ) + b")"
        for first, seconds in nested.items()
    )


class StreamScrubber:
    """One stream's scrubber: what `feed` and `finish` return, joined, is `Scrubber.masked` of all that was fed."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._held = b""
        #: Whether something was masked so far.
        self.masked = False

    def feed(self, chunk: bytes) -> bytes:
        """What can be passed on after `chunk`; may be empty."""
        whole = self._held + chunk
        out, self._held = self._scrubber.split(whole)
        self.masked = self.masked or not whole.startswith(out)
        return out

    def finish(self) -> bytes:
        """What was still held back."""
        out = self._scrubber.masked(self._held)
        self.masked = self.masked or out != self._held
        self._held = b""
        return out
