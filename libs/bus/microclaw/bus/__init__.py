"""The bus: durable, ordered, exactly once in effect.

The primitives:

- `Envelope` (`envelope.py`): the eight fields that travel;
- `Draft`: an envelope to be published, `Receipt`: the broker's word that it is on disk;
- `Bus` (`client.py`): `connect`, `publish`, `subscribe`, `ack/nack/term/in_progress`, `replay`, `request`, `serve`;
- `Delivery`: an envelope that a consumer group was given and must settle;
- `run` (`service.py`): the one run loop of every service.

Nothing of ZeroMQ or SQLite shows through this interface, and nothing here knows what a payload means.
"""
