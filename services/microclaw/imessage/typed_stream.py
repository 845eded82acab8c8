"""The text in `message.attributedBody`, which Messages fills where `text` is NULL.

The bytes are an `NSAttributedString` in Apple's typedstream format (NeXT's `NSArchiver`; not documented by Apple,
see the public reverse engineering of `streamtyped`). Only the string is wanted, so nothing of the rest is decoded:
behind the class name `NSString` (or `NSMutableString`) stands `+`, the type "bytes", then their count
and the bytes, UTF-8.
"""

from __future__ import annotations

_HEADER = b"streamtyped"
_CLASS = b"NSString"
#: Type code of a byte string in the stream: `+`, behind the marks of a new type.
_BYTES = b"\x84\x01+"
#: A count below 0x80 is one byte; these tags announce two and four bytes, little-endian.
_INT16, _INT32 = 0x81, 0x82


class NotTypedStream(ValueError):
    """There is no string where it should be."""


def text_of(blob: bytes) -> str:
    """The string in an archived attributed string.

    :raises NotTypedStream: the bytes are not in this format, or cut off.
    """
    if _HEADER not in blob[:20]:
        raise NotTypedStream("no streamtyped header")
    name = blob.find(_CLASS)
    start = blob.find(_BYTES, name)
    if name < 0 or start < 0:
        raise NotTypedStream("no string in it")
    at = start + len(_BYTES)
    size, at = _count(blob, at)
    raw = blob[at:at + size]
    if len(raw) < size:
        raise NotTypedStream(f"cut off: {len(raw)} of {size} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotTypedStream(f"not UTF-8: {error.reason}") from error


def _count(blob: bytes, at: int) -> tuple[int, int]:
    """(the number at this place, the place behind it)."""
    if at >= len(blob):
        raise NotTypedStream("cut off before the count")
    first = blob[at]
    width = {_INT16: 2, _INT32: 4}.get(first, 0)
    if not width:
        if first >= 0x80:
            raise NotTypedStream(f"count tag {first:#x}")
        return first, at + 1
    if at + 1 + width > len(blob):
        raise NotTypedStream("cut off in the count")
    return int.from_bytes(blob[at + 1:at + 1 + width], "little"), at + 1 + width
