"""The application database, as each service sees its own part of it.

- `open_store` (`engine.py`): this service's tables, schema checked;
- `Outbox` (`outbox.py`): effect in the database and envelopes on the bus, both or none;
- `upgrade` (`migrate.py`): all databases to the newest schema; `HEADS` (`heads.py`): which that is.

On SQLite every service has a file of its own (`<state>/data/<service>.db`): exactly one process opens it.
Each table has one writing service. The history is
Alembic's, one branch a service, in `migrations/versions/<service>/`.
"""
