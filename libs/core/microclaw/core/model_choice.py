"""Which model a group thinks with: what the owner chose in the chat, of what the configuration allows. Pure."""

from __future__ import annotations

from microclaw.core.settings import Model
from microclaw.core.settings_text import toml

#: What gives the word back to the configuration.
DEFAULT = "default"


def choices(model: Model) -> tuple[str, ...]:
    """The models that can be chosen, the usual one first; () = there is no language model."""
    if model.backend in ("local", "scripted"):
        return ()
    return tuple(dict.fromkeys(name for name in (model.name, *model.allowed) if name))


def problem_of(model: Model, wanted: str) -> str:
    """Why this can't be chosen, "" = it can."""
    known = choices(model)
    if wanted in known or (wanted == DEFAULT and known):
        return ""
    if not known:
        return _none(model)
    return (
        f"{wanted} is not one of the models that the configuration allows: {', '.join(known)}. To allow more, at the "
        f"machine: `microclaw config set model.allowed '{toml([*model.allowed, wanted])}'`, then /restart."
    )


def in_force(model: Model, chosen: str) -> str:
    """The model of a turn; "" = the usual one. What was chosen and is no longer allowed counts no more."""
    return chosen if chosen != model.name and chosen in choices(model) else ""


def model_text(model: Model, group: str, chosen: str) -> str:
    """The answer to `/model`."""
    known = choices(model)
    if not known:
        return _none(model)
    name = in_force(model, chosen)
    now = f"{group} thinks with {name} (chosen here)" if name else f"{group} thinks with {model.name}"
    others = f" To choose from: {', '.join(known)}. /model NAME, /model default." if len(known) > 1 else (
        " No other one is allowed; at the machine: `microclaw config set model.allowed '[\"NAME\"]'`, then /restart."
    )
    return f"{now}, by {model.backend}.{others}"


def chosen_text(model: Model, group: str, wanted: str) -> str:
    """The answer to a choice that was taken."""
    name = model.name if wanted == DEFAULT else wanted
    return f"From its next turn on {group} thinks with {name}."


def _none(model: Model) -> str:
    if model.backend not in ("local", "scripted"):
        return (
            f"No model is named for {model.backend}: `microclaw config set model.name NAME`, then `microclaw restart`."
        )
    return (
        "I have no language model: built-in skills answer. To give me one: `microclaw secrets set anthropic`, "
        "`microclaw config set model.backend anthropic`, `microclaw config set model.key anthropic`, then "
        "`microclaw restart`."
    )
