"""The only process with keys, and the only way out of a sandbox.

- `doors.py`: one Unix socket a worker; the socket is the identity;
- `connection.py`: HTTP/1.1 on a door, which leads to
- `model_route.py` (`/llm/…`: model calls, the real key put in, answers scrubbed and metered),
- `pages.py` (`/page/…`: pages for `web_fetch`),
- `connect.py` + `tunnel.py` (`CONNECT`, unopened or, by `tls_stream.py` and `trust.py`, read) or
- `forward.py` + `credentials.py` (`GET http://…`, `/to/host/…`: requests that egress reads, lent credentials put in),
  in which a `websocket.py` may begin;
- `proxy.py` + `dial.py`: what the allow-list lets through, to addresses that were checked;
- `secret_store.py`, `bindings.py`, `audit_log.py`, `metering.py`, `rule_store.py`: what it keeps, in `database.py` (one
  thread that waits for the disk) but for the secrets.

Decisions are pure functions in `microclaw.core`: `egress_rules`, `pages`, `client_hello`, `model_route`, `model_usage`,
`scrub`, `sentinels`, `websocket`, `audit`.
"""
