"""The sandbox: where agents run, and nowhere else.

The primitives:

- `Backend` (`backend.py`): one kind of sandbox; `choose.py` finds the one that works here, `readiness.py` keeps it;
- `Worker` (`worker.py`): one live sandbox, spoken to in lines, one turn at a time;
- `Pool` (`pool.py`): one worker a group, warm between turns;
- `Turns` (`turns.py`): `run.granted` in, `reply.requested` and `run.finished` out;
- `HostTools` (`host_tools.py`): what an agent asks of the host, allowed by who it is.
"""
