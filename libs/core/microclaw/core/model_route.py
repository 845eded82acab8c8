"""Where a model call goes, and what of it may pass: the pure part of egress's `/llm` route.

The worker speaks to `http://egress/llm/…` as its SDK would to the provider; egress puts the configured server and the
real key in. Only the calls listed here pass: the key is good for more than an agent should do.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from microclaw.core.errors import UsageError

#: What the route's paths begin with.
PREFIX = "/llm"

_PROVIDERS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
_CALLS = {
    "anthropic": (
        ("POST", re.compile(r"/messages")),
        ("POST", re.compile(r"/messages/count_tokens")),
        ("GET", re.compile(r"/models(/[\w.:@-]+)?")),
    ),
    "openai": (
        ("POST", re.compile(r"/chat/completions")),
        ("POST", re.compile(r"/responses")),
        ("POST", re.compile(r"/embeddings")),
        ("GET", re.compile(r"/models(/[\w.:@-]+)?")),
    ),
}
#: Headers that belong to one connection, not to the message, and those by which a client says who it is.
_NOT_PASSED = frozenset((
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"host", b"forwarded", b"via",
    b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"alt-svc", b"expect",
    # Ours alone: no server outside may say why egress refused something.
    b"x-egress-reason", b"x-egress-authority",
))
_COOKIES = frozenset((b"cookie", b"set-cookie"))
_CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"openai-organization", b"openai-project"))

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Server:
    """A model server."""

    #: The dialect it speaks: `anthropic` or `openai`.
    dialect: str
    host: str
    port: int
    tls: bool
    #: The path before `/messages`, `/chat/completions`; no slash at its end.
    base: str

    @property
    def authority(self) -> str:
        """The `Host` header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


def server_for(backend: str, base_url: str) -> Server | None:
    """The configured server; None = the backend needs none (`local`, `scripted`).

    :raises UsageError: `base_url` is no URL, or plain HTTP to another machine (the key would travel readable).
    """
    if backend not in _PROVIDERS:
        return None
    url = base_url or _PROVIDERS[backend]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"model.base_url {url!r} is not a URL ({error}): write https://host[:port][/path]") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(f"model.base_url {url!r} is not usable: write https://host[:port][/path], nothing else in it")
    tls = parts.scheme == "https"
    if not tls and not is_loopback(host):
        raise UsageError(
            f"model.base_url {url!r} would send the key unencrypted: use https; plain http is for 127.0.0.1 only"
        )
    path = parts.path.rstrip("/")
    # Anthropic's SDK takes a base without `/v1`, OpenAI's one with it; people write both for both.
    if backend == "anthropic":
        path = path.removesuffix("/v1") + "/v1"
    elif not path:
        path = "/v1"
    return Server(backend, host, port or (443 if tls else 80), tls, path)


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by address or as `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def target_for(server: Server, method: str, target: str) -> str | None:
    """The path (with query) at the server for a call to `target` at the door; None = not a call that may pass."""
    path, _, query = target.removeprefix(PREFIX).partition("?")
    call = path.removeprefix("/v1")
    if not any(method == known and shape.fullmatch(call) for known, shape in _CALLS[server.dialect]):
        return None
    return server.base + call + (f"?{query}" if query else "")


def calls_of(server: Server) -> str:
    """The calls that may pass, for an error text."""
    return ", ".join(f"{method} {PREFIX}/v1{shape.pattern.split('(')[0]}" for method, shape in _CALLS[server.dialect])


def passed(headers: Iterable[tuple[bytes, bytes]], *, cookies: bool = False) -> Headers:
    """The headers (names lower-case) that go on to the other side, without those that `Connection` names."""
    dropped = _NOT_PASSED if cookies else _NOT_PASSED | _COOKIES
    headers = list(headers)
    named = {
        name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")
    }
    return [(key, value) for key, value in headers if key not in dropped and key not in named]


def request_headers(server: Server, headers: Iterable[tuple[bytes, bytes]], key: str) -> Headers:
    """The headers for the server: whatever credential the worker sent is dropped, the real one put in.

    The answer is asked for uncompressed: it has to be read on its way, for usage and for echoes of the key.
    """
    kept = [(k, v) for k, v in passed(headers) if k not in _CREDENTIALS and k != b"accept-encoding"]
    kept += [(b"host", server.authority.encode()), (b"accept-encoding", b"identity")]
    if key:
        kept.append(
            (b"x-api-key", key.encode()) if server.dialect == "anthropic"
            else (b"authorization", b"Bearer " + key.encode())
        )
    return kept


def error_body(dialect: str, status: int, message: str) -> bytes:
    """An error of ours, in the form of the dialect's own, so that the SDK raises what it means."""
    kind = {
        400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
        404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
    }.get(status, "api_error")
    if dialect == "anthropic":
        return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()
