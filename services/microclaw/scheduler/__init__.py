"""The scheduler service: tasks that are due become run requests, each due time exactly once.

- `tables`, `store`: tasks, their fires (the run log), answered commands;
- `firing`: what is due is claimed and requested in one transaction; how it ended is kept;
- `commands`: making, changing, listing;
- `zone`: the owner's time zone;
- `serve`: the loop, and all that on the bus.
"""
