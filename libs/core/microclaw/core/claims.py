"""Does an answer claim to have done what no tool did? Pure.

A model may say "I've set a reminder" without having called a tool. What it says is held against the tools that really
succeeded. It looks for plain claims in English and for nothing else: to miss one leaves things as they were, but who is
told "nothing was done" when it was would believe neither of us again. So a question, a condition, a negation, a
quotation, a draft of somebody else's words, or a word about earlier is never a claim.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from microclaw.core.text import strip_internal

#: A longer answer is looked at only so far, characters.
LOOKED_AT_MAX = 20_000
#: Of an answer of more sentences only so many at both ends.
SENTENCES_MAX = 12
EDGE_SENTENCES = 3
#: Of a sentence, as it is quoted.
QUOTED_CHARS_MAX = 160
#: "Done." counts as a claim only as the beginning of an answer of so many characters at most.
DONE_CHARS_MAX = 200


class Deed(StrEnum):
    """What is claimed."""

    SCHEDULED = "scheduled"
    CANCELLED = "cancelled"
    SENT = "sent"
    WRITTEN = "written"
    #: "Done.", whatever it was.
    DONE = "done"


#: Tools of which one has to have succeeded; looking at what there is counts as well. `bash`, and any tool that is not
#: known here, may have done anything.
BACKED_BY: Mapping[Deed, frozenset[str]] = {
    Deed.SCHEDULED: frozenset({"schedule_task", "update_task", "resume_task", "list_tasks"}),
    Deed.CANCELLED: frozenset({"cancel_task", "pause_task", "update_task", "list_tasks"}),
    Deed.SENT: frozenset({"send_message", "send_file", "ask_user", "search_messages"}),
    Deed.WRITTEN: frozenset({"write_file", "edit_file", "read_file", "list_files", "grep"}),
}
_KNOWN = frozenset().union(*BACKED_BY.values(), {"web_fetch", "list_groups", "register_group"})


@dataclass(frozen=True, slots=True)
class Claim:
    """What an answer says was done, and in which words."""

    deed: Deed
    words: str


@dataclass(frozen=True, slots=True)
class _Pattern:
    deed: Deed
    #: What it finds says that something was done just now; else it may speak of an earlier turn.
    is_now: bool
    regex: re.Pattern[str]


_ADVERBS = r"(?:\s+(?:just|now|also|successfully|then|(?:gone|went)\s+ahead\s+and))*"
_I_HAVE = rf"\bI(?:['’]ve|\s+have){_ADVERBS}\s+"
_I_DID = rf"\bI{_ADVERBS}\s+"
#: Up to so many words between.
_SOME = r"(?:\S+\s+){0,5}?"
_ALARM = r"(?:reminders?|alarms?|timers?|scheduled\s+tasks?)"
_MAIL = r"(?:e-?mails?|messages?|mails?|texts?)"
_FILE = (
    r"(?:files?\b(?!\s+(?:structure|format|layout|system|name|type))"
    r"|[\w./-]*\w\.(?:md|txt|csv|tsv|json|ya?ml|toml|html?|css|js|ts|py|sh|pdf|docx?|xlsx?|ics|png|svg)\b)"
)
_NOT_YOU = r"(?!you\b|nothing\b|no\b|none\b)"
_NOUNS = {Deed.SCHEDULED: _ALARM, Deed.CANCELLED: rf"(?:{_ALARM}|tasks?)", Deed.SENT: _MAIL}
_DONE_VERBS = {
    Deed.SCHEDULED: r"(?:set(?:\s+up)?|scheduled|created|added)",
    Deed.CANCELLED: r"(?:cancelled|canceled|deleted|removed|paused)",
    Deed.SENT: r"sent",
}
#: What follows "I've" or "I".
_WHAT: Mapping[Deed, tuple[str, ...]] = {
    Deed.SCHEDULED: (rf"{_DONE_VERBS[Deed.SCHEDULED]}\s+{_NOT_YOU}{_SOME}{_ALARM}\b",),
    Deed.CANCELLED: (rf"{_DONE_VERBS[Deed.CANCELLED]}\s+{_NOT_YOU}{_SOME}{_NOUNS[Deed.CANCELLED]}\b",),
    Deed.SENT: (
        rf"(?:e-?mailed|messaged|texted|notified)\s+{_NOT_YOU}\w+",
        rf"(?:sent|forwarded)\s+{_NOT_YOU}{_SOME}to\s+(?!you\b)\w+",
        rf"(?:sent|forwarded)\s+{_NOT_YOU}\w+\s+(?:an?|the|your|this)\s+\w+",
        rf"sent\s+(?:the|your|an?)\s+(?:\w+\s+)?{_MAIL}\b(?!\s+(?:above|below|to\s+you))",
    ),
    Deed.WRITTEN: (
        rf"(?:saved|stored|written|wrote)\s+{_NOT_YOU}{_SOME}(?:to|in|into|as|under)\s+{_SOME}{_FILE}",
        rf"(?:created|written|wrote|updated|edited|deleted)\s+{_NOT_YOU}{_SOME}{_FILE}",
        rf"(?:saved|stored|added|recorded|put)\s+{_NOT_YOU}{_SOME}(?:to|in|into)\s+(?:my|your|the)\s+"
        r"(?:long-term\s+)?(?:memory|notes)\b",
    ),
}


def _patterns() -> Iterator[_Pattern]:
    for deed, forms in _WHAT.items():
        for what in forms:
            yield _Pattern(deed, True, re.compile(_I_HAVE + what, re.IGNORECASE))
            yield _Pattern(deed, False, re.compile(_I_DID + what, re.IGNORECASE))
    for deed, noun in _NOUNS.items():
        verb = _DONE_VERBS[deed]
        # "Your reminder is set": true of earlier ones as well. "Reminder set for 6": said of what was just done.
        yield _Pattern(deed, False, re.compile(
            rf"\b(?:the|your|an?)\s+(?:\w+\s+){{0,3}}?{noun}\s+(?:\S+\s+){{0,4}}?(?:is|are|has\s+been|have\s+been)\s+"
            rf"(?:now\s+)?{verb}\b(?!\s+by\b)", re.IGNORECASE,
        ))
        yield _Pattern(deed, True, re.compile(rf"\A{noun}\s+{verb}\b", re.IGNORECASE))
    yield _Pattern(Deed.WRITTEN, True, re.compile(rf"\Asaved\s+(?:it\s+)?(?:to|in|as)\s+{_FILE}", re.IGNORECASE))
    # A promise that only a task can keep.
    yield _Pattern(Deed.SCHEDULED, False, re.compile(
        r"\bI(?:['’]ll|\s+will)(?:\s+(?:also|then))?\s+(?:remind|ping|wake|alert)\s+you\b(?!\s+that\b)[^?]*?"
        r"\b(?:at\s+\d|at\s+(?:noon|midnight)|in\s+(?:\d|an?\b)|tomorrow|tonight|every|daily|next\s+\w+day"
        r"|on\s+(?:mon|tues|wednes|thurs|fri|satur|sun)day)", re.IGNORECASE,
    ))


_PATTERNS = tuple(_patterns())
_DONE = re.compile(
    r"\A(?:ok(?:ay)?[,.!]?\s+)?(?:(?:all\s+)?done|completed|it(?:['’]s|\s+is|\s+has\s+been)\s+(?:all\s+)?done)[.!]*\Z",
    re.IGNORECASE,
)
#: Before a claim in its sentence: then it is none.
_UNSAID = re.compile(
    r"\b(?:not|never|no|nor|if|when|once|unless|until|after|before|whether|while|would|could|can|cannot|should|may|might|must"
    r"|suppose|imagine|pretend|assume[sd]?|assuming|as\s+though|like|said|says|saying|wrote|writes|told|asked|thinks?|thought|wish"
    r"|claim\w*|mean\w*|e\.g|example)\b|n['’]t\b",
    re.IGNORECASE,
)
#: Anywhere in its sentence: it speaks of earlier, or takes it back.
_EARLIER = re.compile(
    r"\b(?:already|earlier|yesterday|previously|before|ago|last|this\s+(?:morning|week)|back\s+(?:in|on|then)|but|however"
    r"|unfortunately|failed|tried|try|error)\b",
    re.IGNORECASE,
)
#: Anywhere before: what follows are words for somebody else to say.
_DRAFT = re.compile(
    r"\b(?:draft\w*|template|sample|for\s+example|e\.g\.|you\s+(?:could|can|might)\s+(?:say|write|reply|send|use)|how\s+about"
    r"|suggest\w*|something\s+like|translat\w+|rewritten|rephrased|here(?:['’]s|\s+is)\s+(?:an?|the|your|my)\s+(?:\w+\s+)?"
    r"(?:message|e-?mail|mail|reply|text|story|poem|dialogue|version|note))\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_QUOTED = re.compile(r"“[^”]*”|„[^“”]*[“”]|«[^»]*»|\"[^\"\n]*\"|(?<!\w)'[^'\n]{12,}'(?!\w)|(?<!\w)‘[^’\n]{12,}’(?!\w)")
_MARKS = re.compile(r"[*_`#~]|^\s*(?:[-•]|\d+[.)])\s+", re.MULTILINE)
_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")


def unbacked(text: str, did: Collection[str], earlier: Collection[str] | None = ()) -> Claim | None:
    """The first claim in an answer that no tool backs.

    :param did: names of the tools that succeeded in this turn.
    :param earlier: those of the earlier turns that the model is told of; None = not all of them are known.
    """
    if _may_have_done_anything(did):
        return None
    plain = _own_words(text)
    before = ""
    sentences = [part.strip() for part in _ENDS.split(plain) if part.strip()]
    # In the middle of a long text stands what it is about, a story or a report, and not what was done for the asker.
    middle = range(EDGE_SENTENCES, len(sentences) - EDGE_SENTENCES) if len(sentences) > SENTENCES_MAX else range(0)
    for number, sentence in enumerate(sentences):
        if number in middle:
            continue
        claim = _claim(sentence, did, earlier)
        if claim is not None and not _DRAFT.search(before + sentence):
            return claim
        if number == 0 and not did and len(plain) <= DONE_CHARS_MAX and _DONE.match(sentence):
            return Claim(Deed.DONE, sentence)
        before += sentence + "\n"
    return None


def _claim(sentence: str, did: Collection[str], earlier: Collection[str] | None) -> Claim | None:
    if sentence.endswith("?") or _EARLIER.search(sentence):
        return None
    for pattern in _PATTERNS:
        found = pattern.regex.search(sentence)
        if found is None or _UNSAID.search(sentence[: found.start()]):
            continue
        backing = BACKED_BY[pattern.deed]
        if backing & set(did):
            continue
        if not pattern.is_now and (earlier is None or _may_have_done_anything(earlier) or backing & set(earlier)):
            continue
        words = sentence if len(sentence) <= QUOTED_CHARS_MAX else sentence[: QUOTED_CHARS_MAX - 1] + "…"
        return Claim(pattern.deed, words)
    return None


def _may_have_done_anything(tools: Collection[str]) -> bool:
    return any(name not in _KNOWN for name in tools)


def _own_words(text: str) -> str:
    """What the answer says itself: without code, quotations and marks."""
    plain = _CODE.sub("\n", strip_internal(text)[:LOOKED_AT_MAX])
    plain = "\n".join(line for line in plain.splitlines() if not line.lstrip().startswith(">"))
    return _MARKS.sub("", _QUOTED.sub("…", plain)).strip()


# --- what is said of it ---


def doubt(claim: Claim) -> str:
    """What the model is told, once."""
    return (
        f"[From the house, not from a person] Your answer says: “{claim.words}” No tool call of this turn did that. "
        "If it is to be done, do it now with a tool. If it was done earlier, say so; if it was not done, say that. "
        "Then answer again: only your next answer is sent, so let it be whole."
    )


def note(claim: Claim) -> str:
    """What stands below an answer that claims it again."""
    return f"[Not confirmed: I used no tool in this turn that did this: “{claim.words}”]"
