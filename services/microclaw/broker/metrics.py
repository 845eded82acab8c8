"""The bus's numbers as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable

from microclaw.bus.admin import BusInfo, GroupOfBus


def prometheus(info: BusInfo, groups: Iterable[GroupOfBus]) -> str:
    """One sample a line, each metric with its help and type."""
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> None:
        lines.append(f"# HELP microclaw_bus_{name} {text}")
        lines.append(f"# TYPE microclaw_bus_{name} {kind}")
        lines.extend(f"microclaw_bus_{name}{labels} {_number(value)}" for labels, value in samples)

    metric("published_total", "counter", "Messages stored since the broker's start.", [("", info.published)])
    metric("duplicates_total", "counter", "Messages that were there before.", [("", info.duplicates)])
    metric("commits_total", "counter", "Transactions, one fsync each.", [("", info.commits)])
    metric("commit_seconds", "gauge", "Time of recent commits.",
           [('{quantile="0.5"}', info.commit_p50_ms / 1000), ('{quantile="0.99"}', info.commit_p99_ms / 1000)])
    metric("batch_messages", "gauge", "Messages in recent commits.",
           [('{quantile="0.5"}', info.batch_p50), ('{quantile="1"}', info.batch_max)])
    metric("messages", "gauge", "Messages kept.", [("", info.messages)])
    metric("journal_bytes", "gauge", "Size of the journal.", [("", info.journal_bytes)])
    metric("wal_bytes", "gauge", "Size of its write-ahead log.", [("", info.wal_bytes)])
    metric("no_space", "gauge", "1 while the disk is full.", [("", float(info.no_space))])
    metric("clients", "gauge", "Connected clients.", [("", len(info.clients))])
    all_groups = list(groups)
    for name, kind, text, field in (
        ("group_lag", "gauge", "Messages a group has not looked at.", "lag"),
        ("group_waiting", "gauge", "Unsettled messages of a group.", "waiting"),
        ("group_in_flight", "gauge", "Messages given to a consumer and not settled.", "in_flight"),
        ("group_dead", "gauge", "Dead letters of a group.", "dead"),
        ("group_redelivered_total", "counter", "Second and later deliveries.", "redelivered"),
    ):
        metric(name, kind, text, [(_label(group), getattr(group, field)) for group in all_groups])
    metric("group_oldest_unsettled_seconds", "gauge", "Age of the oldest unsettled message.",
           [(_label(group), group.oldest_unsettled_ms / 1000) for group in all_groups])
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """Every digit of it: a counter that is rounded stands still, then jumps."""
    return str(int(value)) if value == int(value) else repr(value)


def _label(group: GroupOfBus) -> str:
    escaped = group.name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{{group="{escaped}"}}'
