from __future__ import annotations

from microclaw.core.revival import (
    PAUSE_S_MAX,
    PAUSE_S_MIN,
    SHORT_LIFE_S,
    SHORT_LIVES_COUNT,
    WELL_AFTER_S,
    Hold,
    Revival,
    Start,
    Tell,
)


def test_what_supervisord_gave_up_is_told_and_started_again_after_a_pause() -> None:
    revival = Revival()
    (tell,) = revival.on_state("router", "FATAL", 100.0)
    assert isinstance(tell, Tell)
    assert (tell.service, tell.state) == ("router", "FATAL")
    assert revival.next_due() == 100.0 + PAUSE_S_MIN
    assert revival.due(100.0 + PAUSE_S_MIN - 0.1) == []
    assert revival.due(100.0 + PAUSE_S_MIN) == [Start("router")]
    assert revival.next_due() is None


def test_pauses_double_up_to_a_bound() -> None:
    revival, now, pauses = Revival(), 0.0, []
    for _ in range(12):
        revival.on_state("router", "FATAL", now)
        due = revival.next_due()
        assert due is not None
        pauses.append(due - now)
        now = due
        revival.due(now)
    assert pauses[:3] == [PAUSE_S_MIN, 2 * PAUSE_S_MIN, 4 * PAUSE_S_MIN]
    assert pauses[-1] == PAUSE_S_MAX


def test_a_service_that_dies_young_again_and_again_is_held_and_started_later() -> None:
    revival, now = Revival(), 0.0
    for number in range(SHORT_LIVES_COUNT):
        revival.on_state("router", "RUNNING", now)
        now += SHORT_LIFE_S - 0.1
        commands = revival.on_state("router", "EXITED", now)
        assert bool(commands) == (number == SHORT_LIVES_COUNT - 1)
    tell, hold = commands
    assert isinstance(tell, Tell)
    assert tell.state == "LOOP"
    assert hold == Hold("router")
    # Our own stop does not make it forget the start that is due.
    assert revival.on_state("router", "STOPPED", now + 1) == []
    assert revival.due(1e9) == [Start("router")]


def test_longer_lives_between_and_expected_ends_are_no_loop() -> None:
    revival, now = Revival(), 0.0
    for number in range(5 * SHORT_LIVES_COUNT):
        revival.on_state("killed", "RUNNING", now)
        now += SHORT_LIFE_S + 1 if number % (SHORT_LIVES_COUNT - 1) == 0 else 0.5
        assert revival.on_state("killed", "EXITED", now) == []
        assert revival.on_state("regular", "EXITED", now, expected=True) == []


def test_a_long_healthy_life_makes_the_pauses_short_again() -> None:
    revival = Revival()
    revival.on_state("router", "FATAL", 0.0)
    revival.due(10.0)
    revival.on_state("router", "RUNNING", 10.0)
    revival.on_state("router", "EXITED", 10.0 + WELL_AFTER_S)
    revival.on_state("router", "FATAL", 200.0)
    assert revival.next_due() == 200.0 + PAUSE_S_MIN


def test_what_a_person_stopped_stays_stopped() -> None:
    revival = Revival()
    revival.on_state("router", "RUNNING", 0.0)
    assert revival.on_state("router", "STOPPED", 1.0) == []
    assert revival.due(1e9) == []
