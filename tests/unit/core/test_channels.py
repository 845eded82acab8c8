"""What all connectors decide alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.channels import (
    NAMES_EVERY_MS,
    RECONNECT_MAX_S,
    names_are_due,
    reconnect_delay_s,
    shown_name,
)

HOUR_MS = 3600 * 1000


def test_the_first_pause_is_five_seconds_and_pauses_double_to_a_limit() -> None:
    assert [reconnect_delay_s(failures, 0.0) for failures in (1, 2, 3, 7, 10_000)] == [5, 10, 20, 300, 300]


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_never_nothing_and_never_over_the_limit(failures: int, chance: float) -> None:
    assert 4.0 <= reconnect_delay_s(failures, chance) <= RECONNECT_MAX_S
    assert reconnect_delay_s(failures + 1, chance) >= reconnect_delay_s(failures, chance)


@pytest.mark.parametrize(
    ("synced_h_ago", "force", "due"), [(2, False, False), (2, True, True), (24, False, True), (-1, False, True)]
)
def test_names_are_asked_once_a_day(synced_h_ago: int, force: bool, due: bool) -> None:
    now = 10 * NAMES_EVERY_MS
    assert names_are_due(now - synced_h_ago * HOUR_MS, now, force=force) is due
    assert names_are_due(None, now)


def test_a_sender_without_a_name_is_called_by_the_address() -> None:
    assert shown_name("5551234@s.whatsapp.net", None) == "5551234"
    assert shown_name("5551234@s.whatsapp.net", "Ann") == "Ann"
