"""Whether a mail's From is believed: only by the word of the owner's own mail server. Pure.

Anybody can write any From. The receiving server checks (DMARC, DKIM) and writes what it found into an
Authentication-Results header (RFC 8601), on top of the mail. Only the first such header that bears the configured name
counts: those below may be the sender's own. A pass counts if it is for the domain that From names.
"""

from __future__ import annotations

from collections.abc import Sequence

import authres

#: Longest header that is looked at, characters.
HEADER_CHARS_MAX = 10_000


def is_from_proven(results: Sequence[str], authserv_id: str, from_address: str) -> bool:
    """Whether `from_address` is who wrote it. `results`: the Authentication-Results headers, topmost first;
    `authserv_id`: the name of the server that is believed, "" = nobody is."""
    domain = from_address.rpartition("@")[2].casefold()
    if not authserv_id or not domain:
        return False
    for header in results:
        try:
            found = authres.AuthenticationResultsHeader.parse(
                f"Authentication-Results: {' '.join(header[:HEADER_CHARS_MAX].split())}"
            )
        except authres.core.SyntaxError:
            # It may be the believed server's own: nothing below it may stand for it.
            return False
        if str(found.authserv_id).casefold() == authserv_id.casefold():
            return any(_proves(result, domain) for result in found.results)
    return False


def _proves(result: object, domain: str) -> bool:
    if getattr(result, "result", "").casefold() != "pass":
        return False
    match getattr(result, "method", "").casefold():
        case "dmarc":
            # DMARC's pass is about From itself.
            return _property(result, "header", "from") == domain
        case "dkim":
            signer = _property(result, "header", "d") or _property(result, "header", "i")
            return bool(signer) and (domain == signer or domain.endswith(f".{signer}"))
        case _:
            # SPF is about the envelope, which says nothing of From.
            return False


def _property(result: object, kind: str, name: str) -> str:
    for each in getattr(result, "properties", ()):
        if each.type == kind and each.name == name:
            return str(each.value).casefold().rpartition("@")[2]
    return ""
