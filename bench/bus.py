"""The bus beside its peers: the same work in one run, and the goals as ratios.

    python bench/bus.py [--quick] [--json] [--only NAME,NAME] [--rows N]

The work: P publishers with W messages in flight each say 200 bytes at a time and wait for the acknowledgement; another
process is given each message and acknowledges it. Short runs of all engines take turns (A B C A B C), medians count,
so the machine's other work hits all alike. Absolute figures say more about the disk than about the engines: compare
within one run. So do the ratios to an engine that syncs each message by itself: it is as fast as the disk syncs a
growing file (a bound that is measured, too), ours is as fast as the processor. `--directory` chooses the disk.

Redis and PostgreSQL get a window as one pipeline (their clients have no cheaper way), ours and NATS as publishes
awaited side by side; `ours-windows` is our bus used like those two, a window in one call. All clients run on uvloop
where it is installed, and take and acknowledge deliveries in batches where they can. Peers that are not installed are
named with the command that installs them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import bus_bounds, bus_scale
from bench.bus_load import Load, Measured
from bench.bus_servers import PEERS, Peer, Server

#: (publishers, in flight each).
CASES = ((8, 64), (8, 1), (1, 1))
FAN_OUT = 4


@dataclass(frozen=True)
class Size:
    """How long it all takes."""

    run_s: float
    rounds: int
    replay_messages: int
    #: Rows of the full journal, 0 = not measured.
    full_rows: int


QUICK = Size(run_s=0.25, rounds=2, replay_messages=40_000, full_rows=0)
FULL = Size(run_s=1.0, rounds=7, replay_messages=200_000, full_rows=10_000_000)

#: name → (goal, whether more is better).
GOALS = {
    "p8w64_vs_nats_always": (30.0, True), "p8w64_vs_redis_always": (1.5, True), "p8w1_vs_nats_always": (3.0, True),
    "p1_ack_vs_redis_always": (1.2, False), "p1_ack_vs_fdatasync": (6.0, False), "fanout4": (3.0, True),
    "replay_per_s": (400_000.0, True), "publish_at_1e7_vs_empty": (0.8, True), "broker_rss_mb_1e7": (60.0, False),
}

#: Rows in a transaction where the journal is measured alone.
BATCHES = (64, 512)

_GROWING = "fsync of a growing file p50, us"

Results = dict[tuple[int, int], dict[str, list[Measured]]]


def _alone(batch: int) -> str:
    return f"journal alone, batches of {batch}, rows/s"


def note(text: str) -> None:
    """Progress, not results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def running(
    peers: list[Peer], directory: Path, missing: dict[str, str]
) -> Iterator[dict[str, tuple[Server, Load]]]:
    """All servers and their load processes. A peer that does not start is left out, and named in `missing`."""
    live: dict[str, tuple[Server, Load]] = {}
    with contextlib.ExitStack() as ending:
        for peer in peers:
            place = directory / peer.name
            place.mkdir()
            with contextlib.ExitStack() as its, failing(peer.name, missing, "did not start"):
                server = peer.start(place)
                its.callback(server.stop)
                load = Load(peer.client, server.address, max(publishers for publishers, _ in CASES))
                its.callback(load.close)
                load.run(8, 16, 0.15)
                live[peer.name] = (server, load)
                ending.push(its.pop_all())
                note(f"{peer.name}: started and warm")
        yield live


@contextlib.contextmanager
def failing(name: str, missing: dict[str, str], what: str) -> Iterator[None]:
    """Around what a peer may fail at: it is named in `missing`, and the others go on. Ours may not fail."""
    try:
        yield
    except (RuntimeError, EOFError, BrokenPipeError) as error:  # silent, or its process of the load died
        if name.startswith("ours"):
            raise
        missing[name] = f"{what}, and is left out: {error!r}"
        note(f"{name}: {missing[name]}")


def measure(
    live: dict[str, tuple[Server, Load]], bounds: dict[str, list[float]], directory: Path, size: Size,
    missing: dict[str, str],
) -> Results:
    """All cases on all engines, taking turns. A peer that fails is left out from then on, and named in `missing`."""
    results: Results = {case: {name: [] for name in live} for case in CASES}
    for number in range(size.rounds):
        for case in CASES:
            for name in [name for name in live if name not in missing]:
                with failing(name, missing, f"failed in round {number + 1} at {case[0]}x{case[1]}"):
                    results[case][name].append(live[name][1].run(*case, size.run_s))
                if case == (1, 1) and name in ("ours", "redis-always"):
                    bounds["fdatasync p50, us"].append(bus_bounds.fdatasync_p50_us(directory, size.run_s / 4))
        for batch in BATCHES:
            bounds[_alone(batch)].append(bus_bounds.store_only_rate(directory, size.run_s / 2, batch))
        bounds[_GROWING].append(bus_bounds.append_p50_us(directory, size.run_s / 4))
        bounds["ZeroMQ echo p50, us"].append(bus_bounds.zmq_echo_p50_us(directory, size.run_s / 4))
        note(f"round {number + 1} of {size.rounds}")
    # What a peer did before it failed is no measure of it.
    return {case: {name: runs for name, runs in engines.items() if name not in missing}
            for case, engines in results.items()}


def ratios_of(results: Results, bounds: dict[str, list[float]]) -> dict[str, float]:
    """The ratios that can be had from what was measured."""
    found: dict[str, float] = {}

    def rate(case: tuple[int, int], name: str) -> float | None:
        runs = results[case].get(name)
        return statistics.median(run.rate for run in runs) if runs else None

    def put(name: str, upper: float | None, lower: float | None) -> None:
        if upper is not None and lower:
            found[name] = upper / lower

    for publishers, width in CASES:
        for peer in (peer.name for peer in PEERS if peer.client not in ("ours", "ours-windows")):
            put(f"p{publishers}w{width}_vs_{peer.replace('-', '_')}", rate((publishers, width), "ours"),
                rate((publishers, width), peer))
    put("p8w64_windows_vs_redis_always", rate((8, 64), "ours-windows"), rate((8, 64), "redis-always"))
    put("p8w64_windows_vs_nats_always", rate((8, 64), "ours-windows"), rate((8, 64), "nats-always"))
    lone = results[1, 1]
    ack = {name: statistics.median(run.ack_p50_us for run in runs) for name, runs in lone.items()}
    put("p1_ack_vs_redis_always", ack.get("ours"), ack.get("redis-always"))
    put("p1_ack_vs_nats_always", ack.get("ours"), ack.get("nats-always"))
    put("p1_ack_vs_fdatasync", ack.get("ours"), statistics.median(bounds["fdatasync p50, us"]))
    return found


def table(results: Results, bounds: dict[str, list[float]], ratios: dict[str, float], missing: dict[str, str]) -> None:
    """For people."""
    means = {peer.name: peer.acked_means for peer in PEERS}
    for (publishers, width), engines in results.items():
        print(f"\n{publishers} publishers, {width} in flight each; medians")
        print(f"  {'engine':15}{'messages/s':>12}{'ack p50 us':>12}{'ack p99 us':>12}{'deliver p50':>12}"
              "  acknowledged means")
        for name, runs in engines.items():
            values = [statistics.median(getattr(run, what) for run in runs)
                      for what in ("rate", "ack_p50_us", "ack_p99_us", "deliver_p50_us")]
            print(f"  {name:15}" + "".join(f"{value:12,.0f}" for value in values) + f"  {means[name]}")
    print("\nbounds of this machine, medians")
    for name, values in bounds.items():
        print(f"  {name:40}{statistics.median(values):12,.0f}")
    for name, why in missing.items():
        print(f"\n{name}: {why}")
    print("\nratios" + " " * 34 + "got        goal")
    for name, value in ratios.items():
        goal, more = GOALS.get(name, (None, True))
        wanted = "" if goal is None else f"{'≥' if more else '≤'} {goal:,.4g}" + (
            "" if (value >= goal) is more or value == goal else "   MISSED")
        print(f"  {name:30}{value:14,.2f}   {wanted}")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a look in 40 s; without the ten million rows")
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    parser.add_argument("--only", default="", help="these engines only, by name, comma between")
    parser.add_argument("--directory", default="/tmp", metavar="DIR",
                        help="where all engines keep their files: the disk that is measured; a short path")
    parser.add_argument("--rows", type=int, default=None, help="rows of the full journal; 0 leaves it out")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    options = parse(arguments)
    size = QUICK if options.quick else FULL
    full_rows = size.full_rows if options.rows is None else options.rows
    wanted = {name for name in options.only.split(",") if name} | {"ours"}
    missing: dict[str, str] = {}
    peers = []
    for peer in PEERS:
        if (options.only and peer.name not in wanted) or (options.quick and peer.name == "ours-windows"):
            continue
        why = peer.missing()
        if why is None:
            peers.append(peer)
        else:
            missing[peer.name] = why
            note(f"{peer.name}: {why}")
    bounds: dict[str, list[float]] = {
        name: [] for name in ("fdatasync p50, us", _GROWING, *map(_alone, BATCHES), "ZeroMQ echo p50, us")
    }
    # Short and below /tmp: a Unix socket's path may have about 100 characters.
    with tempfile.TemporaryDirectory(prefix="mcb-", dir=options.directory) as temporary:
        directory = Path(temporary)
        with running(peers, directory, missing) as live:
            results = measure(live, bounds, directory, size, missing)
            ratios = ratios_of(results, bounds)
        note("replay")
        ratios["replay_per_s"] = bus_scale.replay_rate(directory, size.replay_messages, 3)
        note("fan-out")
        one, many = bus_scale.fan_out(directory, size.run_s, size.rounds, FAN_OUT)
        ratios[f"fanout{FAN_OUT}"] = many / one
        if full_rows:
            note(f"a journal of {full_rows:,} rows")
            empty, full, resident = bus_scale.full_journal(directory, full_rows, size.run_s, size.rounds, note)
            ratios["publish_at_1e7_vs_empty"] = full / empty
            ratios["broker_rss_mb_1e7"] = resident
    table(results, bounds, ratios, missing)
    if options.json:
        runs = {
            f"p{publishers}w{width}": {
                name: {"per_s": round(statistics.median(run.rate for run in measured), 1),
                       "ack_p50_us": round(statistics.median(run.ack_p50_us for run in measured), 1),
                       "ack_p99_us": round(statistics.median(run.ack_p99_us for run in measured), 1),
                       "deliver_p50_us": round(statistics.median(run.deliver_p50_us for run in measured), 1)}
                for name, measured in engines.items()
            } for (publishers, width), engines in results.items()
        }
        print(json.dumps({
            "ratios": {name: round(value, 3) for name, value in ratios.items()}, "runs": runs,
            "bounds": {name: round(statistics.median(values), 1) for name, values in bounds.items()},
            "missing": missing, "rows": full_rows, "rounds": size.rounds, "run_s": size.run_s,
        }))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
