"""Reading what a model call cost out of its answer as it passes, in both dialects, streamed (SSE) or not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

#: A longer SSE line is not read for usage (it is passed on all the same).
LINE_BYTES_MAX = 256 << 10
#: A longer unstreamed answer is not read for usage.
BODY_BYTES_MAX = 4 << 20
#: Where an answer does not say its tokens, they are estimated: plain JSON, and one event of a stream with all around.
BYTES_PER_TOKEN = 4
EVENT_BYTES_PER_TOKEN = 200


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `input` counts everything sent, what the provider had cached included."""

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    #: Whether the answer said anything about its cost.
    known: bool = False


def estimated(sent_bytes: int, answer_bytes: int, *, streamed: bool) -> Usage:
    """What a call that was sent may have cost when its answer does not say: a worker must not get round a budget by
    hanging up before the end."""
    return Usage(
        input_tokens=sent_bytes // BYTES_PER_TOKEN,
        output_tokens=answer_bytes // (EVENT_BYTES_PER_TOKEN if streamed else BYTES_PER_TOKEN),
    )


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Counts(msgspec.Struct):
    """`usage` as either dialect writes it."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None


class _Inner(msgspec.Struct):
    model: str | None = None
    usage: _Counts | None = None


class _Answer(msgspec.Struct):
    """An answer or an SSE event: Anthropic's first one has `message` around, OpenAI's Responses' last `response`."""

    model: str | None = None
    usage: _Counts | None = None
    message: _Inner | str | None = None
    response: _Inner | str | None = None


_decoder = msgspec.json.Decoder(_Answer)


def merged(before: Usage, counts: _Counts | None, model: str | None) -> Usage:
    """`before` with what a further event said; counts in events are running totals, so the newest holds."""
    usage = replace(before, model=model or before.model)
    if counts is None:
        return usage
    if counts.prompt_tokens is not None or counts.completion_tokens is not None:
        details = counts.prompt_tokens_details
        return replace(
            usage, known=True, input_tokens=counts.prompt_tokens or 0, output_tokens=counts.completion_tokens or 0,
            cache_read_tokens=(details.cached_tokens or 0) if details else 0,
        )
    if counts.input_tokens is None and counts.output_tokens is None:
        return usage
    read, written = counts.cache_read_input_tokens, counts.cache_creation_input_tokens
    if counts.input_tokens is not None:
        usage = replace(usage, input_tokens=counts.input_tokens + (read or 0) + (written or 0))
        cached = counts.input_tokens_details.cached_tokens if counts.input_tokens_details else None
        usage = replace(usage, cache_read_tokens=read or cached or 0, cache_write_tokens=written or 0)
    return replace(
        usage, known=True,
        output_tokens=counts.output_tokens if counts.output_tokens is not None else usage.output_tokens,
    )


class UsageMeter:
    """Reads one answer's bytes. Broken or overlong parts are passed over: metering never stops an answer."""

    def __init__(self, content_type: str) -> None:
        self._streamed = content_type.startswith("text/event-stream")
        self._part = bytearray()
        self._skipping = False
        self._usage = Usage()

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the answer's body."""
        if not self._streamed:
            if len(self._part) + len(chunk) > BODY_BYTES_MAX:
                self._skipping = True
                self._part.clear()
            if not self._skipping:
                self._part += chunk
            return
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._extend(line)
            if not self._skipping:
                self._line(bytes(self._part))
            self._part.clear()
            self._skipping = False
        self._extend(rest)

    def finish(self) -> Usage:
        """What the whole answer said."""
        if self._part and not self._skipping:
            if self._streamed:
                self._line(bytes(self._part))
            else:
                self._read(bytes(self._part))
        self._part.clear()
        return self._usage

    def _extend(self, piece: bytes) -> None:
        if len(self._part) + len(piece) > LINE_BYTES_MAX:
            self._skipping = True
            self._part.clear()
        if not self._skipping:
            self._part += piece

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:") and (b'"usage"' in line or not self._usage.model):
            self._read(line[5:].strip())

    def _read(self, raw: bytes) -> None:
        try:
            answer = _decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            return
        for part in (answer.message, answer.response):
            if isinstance(part, _Inner):
                self._usage = merged(self._usage, part.usage, part.model)
        self._usage = merged(self._usage, answer.usage, answer.model)
