"""`/llm/…`: a model call. The real key takes the placeholder's place; bodies stream through, masked and metered."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import h11

from microclaw.core.model_route import Server, calls_of, error_body, passed, request_headers, target_for
from microclaw.core.model_usage import Usage, UsageMeter, estimated
from microclaw.core.scrub import Scrubber, StreamScrubber
from microclaw.egress.answer_end import AnswerEnd
from microclaw.egress.audit_log import AuditLog
from microclaw.egress.budgets import BudgetKeeper
from microclaw.egress.connection import refuse
from microclaw.egress.doors import Owner
from microclaw.egress.http_messages import BadMessage, Closed, Limits, Wire
from microclaw.egress.metering import Meter
from microclaw.egress.secret_store import SecretStore
from microclaw.egress.upstream import Unreachable, connected, dial_plain

#: A prompt with its pictures.
REQUEST_BYTES_MAX = 32 << 20
ANSWER_BYTES_MAX = 64 << 20
#: From the request to the first byte of the answer: unstreamed answers of slow models take minutes.
ANSWER_S_MAX = 600.0
#: The whole call.
CALL_S_MAX = 1800.0


@dataclass(slots=True)
class _Call:
    """What is told of one call afterwards."""

    path: str
    outcome: str = "failed"
    detail: str = ""
    usage: Usage | None = None
    #: Of the request's body, and of the answer's; the answer was a stream of events.
    sent_bytes: int = 0
    answer_bytes: int = 0
    streamed: bool = False
    told: bool = False


class ModelRoute:
    """The route. `server` None: no model is configured."""

    def __init__(
        self, server: Server | None, key_name: str, secrets: SecretStore, audit: AuditLog, meter: Meter,
        budgets: BudgetKeeper, *, tls: Callable[[], ssl.SSLContext], limits: Limits, answer_s: float = ANSWER_S_MAX,
    ) -> None:
        self._server = server
        self._key_name = key_name
        self._secrets = secrets
        self._audit = audit
        self._meter = meter
        self._budgets = budgets
        self._tls = tls
        self._limits = limits
        self._answer_s = answer_s

    async def handle(self, owner: Owner, wire: Wire, request: h11.Request) -> bool:
        """Carry out one call, or refuse it in the form of the dialect's own errors. :raises Closed:"""
        server = self._server
        if server is None:
            await refuse(wire, 404, "no model is configured: set model.backend and model.name in the configuration")
            return False
        target = request.target.decode("ascii", "replace")
        call = _Call(target.partition("?")[0][:200])
        path = target_for(server, request.method.decode(), target)
        scrubber = self._secrets.scrubber
        failure: tuple[int, str] | None = None
        try:
            problem = await self._problem(server, request, path, scrubber, owner.group)
            if problem is not None or path is None:
                failure = status, call.detail = problem or (403, "not a model call")
                call.outcome = "deny" if status in (402, 403) else "failed"
            else:
                async with asyncio.timeout(CALL_S_MAX):
                    await self._exchange(owner, server, wire, request, path, scrubber, call)
        except Unreachable as error:
            call.detail = str(error)
            failure = 502, f"the model's server is not reachable: {scrubber.masked_text(str(error))}"
        except TimeoutError:
            call.detail = f"no answer within {self._answer_s:g} s, or none that ended within {CALL_S_MAX:g} s"
            failure = 504, f"the model's server gave {call.detail}: try again, or another model"
        except BadMessage as bad:
            call.detail = bad.reason
            failure = bad.status, scrubber.masked_text(bad.reason)
        except Closed as closed:
            call.outcome, call.detail = "cut", scrubber.masked_text(str(closed))
            raise
        finally:
            # Before the worker hears of it: see `answer_end`.
            await self._tell(owner, server, call)
        if failure is not None:
            await _fail(wire, server, *failure)
        return False

    async def _problem(
        self, server: Server, request: h11.Request, path: str | None, scrubber: Scrubber, group: str,
    ) -> tuple[int, str] | None:
        """(status, why) of a call that can't be made."""
        if path is None:
            return 403, f"{request.method.decode()} {request.target.decode()[:100]} is not among {calls_of(server)}"
        if scrubber.holds(request.target) or any(scrubber.holds(value) for _, value in request.headers):
            return 403, "the request's address or headers hold a secret: it was not sent"
        if any(key == b"content-encoding" and value != b"identity" for key, value in request.headers):
            return 415, "the request is compressed: send it plain"
        length = next((int(value) for key, value in request.headers if key == b"content-length"), 0)
        if length > REQUEST_BYTES_MAX:
            return 413, f"the request has {length} bytes, the limit is {REQUEST_BYTES_MAX}"
        if over := await self._budgets.refusal(group):
            return 402, over
        if not self._key_name:
            needed = server.host in ("api.anthropic.com", "api.openai.com")
            return (401, "no key: name its secret as model.key in the configuration") if needed else None
        if self._secrets.value(self._key_name) is None:
            return 401, f"the secret {self._key_name} (model.key) is not set: microclaw secrets set {self._key_name}"
        return None

    async def _exchange(
        self, owner: Owner, server: Server, wire: Wire, request: h11.Request, path: str, scrubber: Scrubber,
        call: _Call,
    ) -> None:
        key = self._secrets.value(self._key_name) or ""
        headers = request_headers(server, request.headers, key)
        if any(name == b"transfer-encoding" for name, _ in request.headers):
            headers.append((b"transfer-encoding", b"chunked"))
        if wire.h11.they_are_waiting_for_100_continue:
            await wire.send(h11.InformationalResponse(status_code=100, headers=[]))
        async with connected(
            dial_plain, [server.host], server.port, name=server.host, limits=self._limits,
            tls=self._tls() if server.tls else None,
        ) as outside:
            await outside.send(h11.Request(method=request.method, target=path, headers=headers))
            await self._send_body(wire, outside, scrubber, call)
            head = await self._first_of_answer(wire, outside)
            call.outcome = str(head.status_code)
            if any(key == b"content-encoding" and value.lower() != b"identity" for key, value in head.headers):
                raise BadMessage(502, "the model's server compressed its answer though it was asked not to")
            end = await self._pass_answer(wire, outside, head, scrubber, call)
            await self._tell(owner, server, call)
            if end:
                await wire.send(h11.Data(data=end))
            await wire.send(h11.EndOfMessage())

    async def _send_body(self, wire: Wire, outside: Wire, scrubber: Scrubber, call: _Call) -> None:
        """A secret that a person once typed into a chat is masked: it is in the history of every later call."""
        masked = StreamScrubber(scrubber)
        try:
            async for piece in wire.body(REQUEST_BYTES_MAX):
                call.sent_bytes += len(piece)
                if out := masked.feed(piece):
                    await outside.send(h11.Data(data=out))
            if out := masked.finish():
                await outside.send(h11.Data(data=out))
            await outside.send(h11.EndOfMessage())
        except Closed:
            if wire.reader.at_eof():
                raise
            # The server stopped listening: it may have answered already (too large, not allowed).

    async def _first_of_answer(self, wire: Wire, outside: Wire) -> h11.Response:
        """The answer's head; given up as soon as the worker is gone. :raises TimeoutError: :raises Closed:"""
        waiting = asyncio.ensure_future(outside.response(self._answer_s))
        gone = asyncio.ensure_future(wire.read_more(None))
        try:
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done() and (gone.exception() or not gone.result()):
                raise Closed("the worker is gone")
            try:
                return await waiting
            except Closed as closed:
                raise Unreachable(f"it broke off: {closed}") from closed
        finally:
            for task in (waiting, gone):
                task.cancel()
            await asyncio.gather(waiting, gone, return_exceptions=True)

    async def _pass_answer(
        self, wire: Wire, outside: Wire, head: h11.Response, scrubber: Scrubber, call: _Call,
    ) -> bytes:
        """The answer but for its end, which is returned."""
        headers = [(key, scrubber.masked(value)) for key, value in passed(head.headers)]
        kind = next((value for key, value in headers if key == b"content-type"), b"").decode("ascii", "replace")
        await wire.send(h11.Response(status_code=head.status_code, headers=headers))
        meter = UsageMeter(kind)
        call.streamed = kind.startswith("text/event-stream")
        masked = StreamScrubber(scrubber)
        end = AnswerEnd(streamed=call.streamed)

        async def on_its_way(out: bytes) -> None:
            meter.feed(out)
            if passed_on := end.feed(out):
                await wire.send(h11.Data(data=passed_on))

        try:
            async for piece in outside.body(ANSWER_BYTES_MAX):
                call.answer_bytes += len(piece)
                if out := masked.feed(piece):
                    await on_its_way(out)
            if out := masked.finish():
                await on_its_way(out)
            return end.rest()
        except BadMessage as bad:
            # Too late for an error of ours: cut, so that the worker's SDK sees an unfinished answer.
            raise Closed(f"the answer broke off: {bad.reason}") from bad
        finally:
            if head.status_code < 400:
                call.usage = meter.finish()
            if masked.masked:
                call.detail = "a secret in the answer was masked"

    async def _tell(self, owner: Owner, server: Server, call: _Call) -> None:
        """Meter and audit it, once, and both or neither."""
        if call.told:
            return
        call.told = True
        spent = call.usage
        if spent is None and call.outcome == "cut" and call.sent_bytes:
            spent = Usage()
        if spent is not None and not spent.known:
            guess = estimated(call.sent_bytes, call.answer_bytes, streamed=call.streamed)
            spent = replace(guess, model=spent.model)
        if spent is not None:
            cost = f"{spent.model or '?'}: {spent.input_tokens} in, {spent.output_tokens} out"
            call.detail = f"{cost}; {call.detail}" if call.detail else cost
        await self._audit.record(
            f"worker:{owner.worker_id}@{owner.group}", "model.call", f"{server.host}:{server.port} {call.path}",
            call.outcome, call.detail, also=self._meter.counting(owner.group, spent) if spent is not None else None,
        )


async def _fail(wire: Wire, server: Server, status: int, reason: str) -> None:
    if wire.h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        with suppress(Closed):
            await refuse(wire, status, reason, body=error_body(server.dialect, status, reason))
    else:
        raise Closed(reason)
