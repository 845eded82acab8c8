"""The model route's pure parts: where a call goes, with what, and what it cost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.errors import UsageError
from microclaw.core.model_route import error_body, passed, request_headers, server_for, target_for
from microclaw.core.model_usage import BODY_BYTES_MAX, LINE_BYTES_MAX, Usage, UsageMeter


@pytest.mark.parametrize(("backend", "base_url", "asked", "sent"), [
    ("anthropic", "", "/llm/v1/messages", "https://api.anthropic.com /v1/messages"),
    ("anthropic", "https://x.example/v1/", "/llm/messages?beta=true", "https://x.example /v1/messages?beta=true"),
    ("anthropic", "https://x.example/api", "/llm/v1/messages", "https://x.example /api/v1/messages"),
    ("openai", "", "/llm/v1/chat/completions", "https://api.openai.com /v1/chat/completions"),
    ("openai", "", "/llm/chat/completions", "https://api.openai.com /v1/chat/completions"),
    ("openai", "http://127.0.0.1:11434", "/llm/v1/models", "http://127.0.0.1:11434 /v1/models"),
    ("openai", "http://localhost:11434/v1", "/llm/chat/completions", "http://localhost:11434 /v1/chat/completions"),
    ("openai", "http://[::1]:1/v1", "/llm/models/a:b", "http://[::1]:1 /v1/models/a:b"),
    ("openai", "https://x.example:8443/api/v4", "/llm/v1/responses", "https://x.example:8443 /api/v4/responses"),
])
def test_a_call_goes_where_the_configuration_says(backend, base_url, asked, sent):
    server = server_for(backend, base_url)
    method = "GET" if "models" in asked else "POST"
    assert server is not None
    assert f"http{'s' if server.tls else ''}://{server.authority} {target_for(server, method, asked)}" == sent


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40))
def test_only_the_listed_calls_pass(rest):
    server = server_for("anthropic", "")
    assert server is not None
    target = target_for(server, "POST", f"/llm/v1/{rest}")
    if target is not None:
        assert target.split("?")[0] in ("/v1/messages", "/v1/messages/count_tokens")


@pytest.mark.parametrize("base_url", [
    "http://192.168.1.5:11434", "http://api.openai.com", "http://localhost.evil.example", "http://127.0.0.1.evil.example",
    "ftp://x", "x.example", "https://", "https://u:p@x.example", "https://x.example?a=b", "https://x.example:99999",
])
def test_a_server_that_would_get_the_key_unencrypted_or_is_none_is_refused(base_url):
    with pytest.raises(UsageError, match=r"model\.base_url"):
        server_for("openai", base_url)


def test_no_server_where_no_model_is():
    assert server_for("local", "") is None and server_for("scripted", "") is None


def test_the_workers_credentials_and_connection_headers_do_not_pass():
    server = server_for("anthropic", "")
    assert server is not None
    sent = request_headers(server, [
        (b"x-api-key", b"placeholder"), (b"authorization", b"Bearer placeholder"), (b"host", b"egress"),
        (b"connection", b"close, X-Hop"), (b"x-hop", b"1"), (b"cookie", b"c"), (b"anthropic-version", b"2023-06-01"),
        (b"accept-encoding", b"gzip, br"), (b"content-length", b"2"),
    ], "real")
    assert sent == [
        (b"anthropic-version", b"2023-06-01"), (b"content-length", b"2"), (b"host", b"api.anthropic.com"),
        (b"accept-encoding", b"identity"), (b"x-api-key", b"real"),
    ]
    assert passed([(b"connection", b"a"), (b"a", b"1"), (b"set-cookie", b"x"), (b"b", b"2")]) == [(b"b", b"2")]


def test_errors_have_the_dialects_form():
    error = json.loads(error_body("anthropic", 401, "why"))["error"]
    assert error == {"type": "authentication_error", "message": "why"}
    assert json.loads(error_body("openai", 502, "why"))["error"]["message"] == "why"


def metered(kind: str, *pieces: bytes) -> Usage:
    meter = UsageMeter(kind)
    for piece in pieces:
        meter.feed(piece)
    return meter.finish()


OPENAI_STREAM = (
    b'data: {"model":"gpt-x","choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
    b'data: {"model":"gpt-x","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":4,'
    b'"prompt_tokens_details":{"cached_tokens":3}}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize(("kind", "body", "expected"), [
    ("text/event-stream", OPENAI_STREAM, Usage("gpt-x", 11, 4, 3, 0, True)),
    ("application/json", b'{"model":"m","usage":{"input_tokens":5,"output_tokens":2,"cache_read_input_tokens":1}}',
     Usage("m", 6, 2, 1, 0, True)),
    ("text/event-stream; charset=utf-8",
     b'event: response.completed\r\ndata: {"response":{"model":"o","usage":{"input_tokens":7,"output_tokens":3,'
     b'"input_tokens_details":{"cached_tokens":2}}}}\r\n\r\n', Usage("o", 7, 3, 2, 0, True)),
    ("application/json", b'{"data":[]}', Usage()),
    ("application/json", b"not json", Usage()),
    ("text/event-stream", b'data: {"usage": "broken"}\n\ndata: {"usage"\n', Usage()),
    ("application/json", b"[" * 100_000, Usage()),
])
def test_usage_is_read_in_both_dialects_and_nothing_breaks_it(kind, body, expected):
    assert metered(kind, body) == expected
    assert metered(kind, *(body[at:at + 7] for at in range(0, len(body), 7))) == expected


def test_overlong_parts_are_passed_over():
    assert metered("text/event-stream", b"data: " + b"x" * (LINE_BYTES_MAX + 1), b'"usage"\n', OPENAI_STREAM).known
    assert metered("application/json", b" " * BODY_BYTES_MAX, b'{"usage":{"input_tokens":5}}') == Usage()
