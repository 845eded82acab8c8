"""The queue service: who runs now, who waits, what is tried again.

- `tables`, `store`: what is kept;
- `desk`: events meet the database, `core.dispatch` decides;
- `opaque`: messages are carried, not read;
- `notices`: what is said when a run failed for good;
- `serve`: the desk on the bus.
"""
