"""The pure half of MicroClaw: what the words mean, and every decision.

The primitives:

- `kinds`: the payload kinds that travel between services, one definition each;
- `requests`: the questions services answer, and their answers;
- `worker`: what the host and the agent inside a sandbox say to each other;
- `settings` and `home`: the one configuration file and where the state lives;
- `ids`: message ids, time-ordered and derived.

Nothing here knows the bus, a database or the network.
"""
