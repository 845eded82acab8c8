"""Rows of the behaviour contract, and what it means that one holds.

An adapter computes what *our* functions and services do for a row's `given` and `when`. It is told which things are
asked (the keys of `then`), never what the answer should be.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Unmapped(Exception):
    """The adapter does not know what this row speaks of."""


class Fact:
    """A computed answer that can be said in more than one way."""

    def meets(self, expected: Any) -> bool:
        """Whether this is what was expected. :raises Unmapped: that can't be said."""
        raise NotImplementedError


@dataclass(frozen=True)
class Phrases(Fact):
    """Of sentences that the contract uses: which are true here, which are not."""

    truth: Mapping[str, bool]

    def meets(self, expected: Any) -> bool:
        if expected not in self.truth:
            raise Unmapped(f"nobody knows what {expected!r} means here")
        return self.truth[expected]


@dataclass(frozen=True)
class Checked(Fact):
    """A measured value and how it is compared with what is expected."""

    value: Any
    test: Callable[[Any, Any], bool]

    def meets(self, expected: Any) -> bool:
        return self.test(self.value, expected)

    def __repr__(self) -> str:
        return repr(self.value)


def contains(text: str | Collection[str]) -> Checked:
    """It holds all the parts that are expected (or the one)."""
    return Checked(text, lambda value, parts: all(
        part in value for part in ([parts] if isinstance(parts, str) else parts)
    ))


def without(values: Collection[str]) -> Checked:
    """It holds none of what is expected to be absent."""
    return Checked(values, lambda value, parts: not any(part in value for part in parts))


def at_most(value: float) -> Checked:
    """It is not above the bound that is expected."""
    return Checked(value, lambda measured, bound: measured <= bound)


def begins_with(values: list[Any]) -> Checked:
    """The first of these are as expected: the observer stopped looking there."""
    return Checked(values, lambda value, expected: value[: len(expected)] == expected and bool(expected))


@dataclass(frozen=True)
class Case:
    """What an adapter is told."""

    given: Mapping[str, Any]
    when: Any
    #: The keys of `then`.
    asked: frozenset[str]
    #: The file's `meta`.
    meta: Mapping[str, Any]

    def knows(self, *keys: str) -> None:
        """:raises Unmapped: `given` has others than these."""
        others = sorted(set(self.given) - set(keys))
        if others:
            raise Unmapped(f"given: {', '.join(others)}")

    def need(self, key: str) -> Any:
        """:raises Unmapped: it is not given."""
        if key not in self.given:
            raise Unmapped(f"given has no {key}")
        return self.given[key]

    def when_is(self, *words: str) -> bool:
        """Whether `when` speaks of all these."""
        return isinstance(self.when, str) and all(word in self.when for word in words)


class Verdict(StrEnum):
    """What became of a row."""

    PASSED = "passed"
    FAILED = "failed"
    UNMAPPED = "unmapped"


@dataclass(frozen=True)
class Judged:
    """A row and its verdict."""

    row: Mapping[str, Any]
    verdict: Verdict
    why: str = ""

    @property
    def binds(self) -> bool:
        """`keep` and `harden` rows must pass; others inform."""
        return self.row["parity"] in ("keep", "harden")


def read(path: Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """The file's meta and rows."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content.get("meta", {}), content["rows"]


def adapter_of(area: str) -> Callable[[Case], Any]:
    """The area's `answer`. :raises Unmapped: there is no such area."""
    if not re.fullmatch(r"[a-z_]+", area):
        raise Unmapped(f"{area!r} is no area")
    try:
        module = importlib.import_module(f"tests.contract.areas.{area}")
    except ModuleNotFoundError as error:
        if error.name != f"tests.contract.areas.{area}":
            raise
        raise Unmapped(f"no adapter for {area}") from error
    found: Callable[[Case], Any] = module.answer
    return found


def judge(row: Mapping[str, Any], meta: Mapping[str, Any]) -> Judged:
    """Run a row."""
    then = row["then"]
    try:
        adapter = adapter_of(row["area"])
        answer = adapter(Case(row["given"], row["when"], frozenset(then), meta))
        if inspect.isawaitable(answer):
            answer = asyncio.run(_waited(answer))
        wrong = list(_differences(then, answer))
    except Unmapped as unmapped:
        return Judged(row, Verdict.UNMAPPED, str(unmapped))
    except Exception as error:  # noqa: BLE001 - a row that breaks the code is a failed row, and the next is run
        return Judged(row, Verdict.FAILED, f"{type(error).__name__}: {error}")
    return Judged(row, Verdict.FAILED, "; ".join(wrong)) if wrong else Judged(row, Verdict.PASSED)


async def _waited(answer: Any) -> Any:
    return await answer


def _differences(then: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterable[str]:
    missing = [key for key in then if key not in answer]
    if missing:
        raise Unmapped(f"then: {', '.join(missing)}")
    for key, expected in then.items():
        got = answer[key]
        if isinstance(got, Fact):
            if not got.meets(expected):
                yield f"{key}: expected {expected!r}, got {got!r}"
        elif isinstance(got, bool) != isinstance(expected, bool) or got != expected:
            yield f"{key}: expected {expected!r}, got {got!r}"
