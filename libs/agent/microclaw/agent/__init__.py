"""The agent: what runs inside a sandbox and nowhere else.

The primitives:

- `worker`: reads the host's lines, gives each turn to the loop, answers with exactly one `TurnDone`;
- `loop`: model → tool calls → results → model …, until nothing is left to do;
- `transcript`: every step on disk before it is acted on, so that a killed turn goes on where it was;
- `conversation`: what has been said and done, in words that belong to no provider;
- `models`: the backends behind one protocol (`anthropic`, `openai`, `local`, `scripted`);
- `tools`: what the agent can do in here, and what it asks of the host.
"""
