"""The only process with keys, and the only way out of a sandbox.

- `doors.py`: one Unix socket a worker; the socket is the identity;
- `connection.py`: HTTP/1.1 on a door, which leads to
- `model_route.py` (`/llm/…`: model calls, the real key put in, answers scrubbed and metered) or
- `proxy.py` + `tunnel.py` (`CONNECT`, `GET http://…`: what the allow-list lets through, to addresses that `dial.py`
  checked);
- `secret_store.py`, `audit_log.py`, `metering.py`, `rule_store.py`: what it keeps.

Decisions are pure functions in `microclaw.core`: `egress_rules`, `client_hello`, `model_route`, `model_usage`, `scrub`,
`audit`.
"""
