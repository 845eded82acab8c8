"""The way to a model's server: egress's Unix socket, which puts the real key in. Here there is only a placeholder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from microclaw.agent.models import FailureCode, ModelError

if TYPE_CHECKING:
    import httpx2

#: Where egress serves the models' routes; the host name means nothing, the socket is the address.
LLM_URL = "http://egress/llm"
#: The SDKs want a key. Egress drops it and puts the real one in.
PLACEHOLDER_KEY = "placeholder-the-key-is-in-egress"
#: No sign of the server for this long means that it is down.
CONNECT_S_MAX = 10.0
SILENCE_S_MAX = 300.0
#: A longer text of a server is cut in an error, in characters.
REASON_CHARS_MAX = 200


def open_door(socket: Path) -> httpx2.AsyncClient:
    """An HTTP client whose every connection goes through the socket."""
    import httpx2

    return httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(uds=str(socket)),
        timeout=httpx2.Timeout(SILENCE_S_MAX, connect=CONNECT_S_MAX),
        trust_env=False,
    )


def refusal(status: int, body: Any, headers: Any) -> ModelError:
    """What a status (of an SDK's APIStatusError) means for the turn."""
    kind, reason = _reason(body)
    said = f"{status}: {reason}" if reason else str(status)
    code = _code(status, kind, reason)
    match code:
        case "bad_key":
            return ModelError(
                code, f"the model's server refused the key ({said}); set it by `microclaw secrets set NAME`"
            )
        case "rate_limited":
            return ModelError(
                code, f"the model's server takes no more for now ({said}); try again later",
                retry_after_s=_retry_after_s(headers),
            )
        case "too_long":
            return ModelError(code, f"the conversation is too long for the model ({said}); begin a new one")
        case "budget":
            return ModelError(code, f"the budget for the model is used up ({said}); raise it or wait")
        case "bad_request":
            return ModelError(
                code, f"the model's server refused the question ({said}); check [model] in the configuration"
            )
        case _:
            return ModelError(
                code, f"the model's server failed ({said}); try again later", retry_after_s=_retry_after_s(headers)
            )


def _code(status: int, kind: str, reason: str) -> FailureCode:
    by_status: dict[int, FailureCode] = {
        401: "bad_key", 403: "bad_key", 402: "budget", 413: "too_long", 429: "rate_limited", 408: "model_down",
        409: "model_down",
    }
    by_kind: dict[str, FailureCode] = {
        "overloaded_error": "model_down", "api_error": "model_down", "timeout_error": "model_down",
        "rate_limit_error": "rate_limited", "authentication_error": "bad_key", "permission_error": "bad_key",
        "context_length_exceeded": "too_long",
    }
    if status in by_status:
        return by_status[status]
    if status == 400 and (kind == "context_length_exceeded" or _says_too_long(reason)):
        return "too_long"
    if status < 400:  # an error in the middle of a stream that began well
        return by_kind.get(kind, "model_down")
    return "model_down" if status >= 500 else "bad_request"


def _says_too_long(reason: str) -> bool:
    low = reason.lower()
    return any(words in low for words in (
        "prompt is too long", "context length", "context window", "maximum context", "too many tokens",
    ))


def _reason(body: Any) -> tuple[str, str]:
    """The kind (or code) of an error and its text, in either dialect's form."""
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", " ".join(str(body or "").split())[:REASON_CHARS_MAX]
    text = " ".join(str(error.get("message") or "").split())[:REASON_CHARS_MAX]
    return str(error.get("code") or error.get("type") or ""), text


def _retry_after_s(headers: Any) -> float | None:
    """The wait that the server asks for; None if it asks for none in seconds."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if seconds >= 0:
            return seconds
    return None


def unreachable(error: BaseException) -> ModelError:
    """The connection did not come about, or was lost in the middle of an answer."""
    return ModelError("model_down", f"the model's server can't be reached ({type(error).__name__}); try again later")


def cut() -> ModelError:
    """An answer that ended before its end."""
    return ModelError("model_down", "the model's answer broke off in the middle; try again later")


def garbage(error: BaseException) -> ModelError:
    """An answer that is none."""
    return ModelError(
        "model_down", f"the model's server sent something that is no answer ({type(error).__name__}); try again later"
    )


def missing(package: str) -> ModelError:
    """The SDK is not in here."""
    return ModelError(
        "bad_request", f"the package {package} is not installed in the sandbox; install microclaw's extra `agent` there"
    )
