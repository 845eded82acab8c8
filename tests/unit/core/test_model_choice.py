"""Which model thinks: only what the configuration allows."""

from __future__ import annotations

from microclaw.core.model_choice import choices, chosen_text, in_force, model_text, problem_of
from microclaw.core.settings import Model

NONE = Model()
ONE = Model(backend="anthropic", name="m-1")
MANY = Model(backend="anthropic", name="m-1", allowed=("m-2", "m-3"))


def test_only_what_the_configuration_allows_can_be_chosen() -> None:
    assert choices(MANY) == ("m-1", "m-2", "m-3") and choices(NONE) == ()
    assert problem_of(MANY, "m-2") == problem_of(MANY, "m-1") == problem_of(MANY, "default") == ""
    assert "m-1, m-2, m-3" in problem_of(MANY, "m-9") and '["m-2", "m-3", "m-9"]' in problem_of(MANY, "m-9")
    assert "no language model" in problem_of(NONE, "m-1") and "no language model" in problem_of(NONE, "default")


def test_a_choice_that_is_no_longer_allowed_counts_no_more() -> None:
    assert in_force(MANY, "m-2") == "m-2"
    assert in_force(ONE, "m-2") == in_force(MANY, "m-1") == in_force(MANY, "") == in_force(NONE, "m-2") == ""


def test_it_tells_what_thinks_and_what_there_is() -> None:
    assert "microclaw secrets set" in model_text(NONE, "main", "")
    assert model_text(ONE, "main", "").startswith("main thinks with m-1, by anthropic. No other one is allowed")
    text = model_text(MANY, "main", "m-3")
    assert "m-3 (chosen here)" in text and "m-1, m-2, m-3" in text
    assert chosen_text(MANY, "main", "default") == "From its next turn on main thinks with m-1."
    assert "model.name" in model_text(Model(backend="openai"), "main", "")
