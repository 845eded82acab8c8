"""What a consumer group subscribes to: kinds of messages, by pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def subject_matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a kind fits one of these: `*` is one segment, a final `>` one or more."""
    split = [pattern.split(".") for pattern in patterns]

    def fits(kind: str, pattern: list[str]) -> bool:
        segments = kind.split(".")
        for number, part in enumerate(pattern):
            if part == ">":
                return number == len(pattern) - 1 and len(segments) > number
            if number >= len(segments) or part not in ("*", segments[number]):
                return False
        return len(segments) == len(pattern)

    return lambda kind: any(fits(kind, pattern) for pattern in split)
