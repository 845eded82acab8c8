"""A model, whatever it is: the one protocol behind which the backends stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from microclaw.agent.conversation import Said, TurnLog
from microclaw.agent.tools.schemas import ToolSpec
from microclaw.agent.workspace import Workspace
from microclaw.core.worker import Setup

FailureCode = Literal["model_down", "rate_limited", "bad_key", "bad_request", "too_long", "budget"]


class ModelError(Exception):
    """The model did not answer. `code` is the `error_code` of the turn's end."""

    def __init__(self, code: FailureCode, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        #: How long the provider asks to be left alone.
        self.retry_after_s = retry_after_s

    @property
    def is_passing(self) -> bool:
        """The same question may be answered a little later."""
        return self.code in ("model_down", "rate_limited")


@dataclass(frozen=True)
class Ask:
    """What the model is asked: the turns so far, the last of them under way."""

    system: str
    turns: tuple[TurnLog, ...]
    tools: tuple[ToolSpec, ...]
    #: The answer must be text: the turn's last step.
    no_more_calls: bool = False
    #: The model that is to answer, "" = the one of the setup.
    model: str = ""
    #: Told, as the message comes in, how to get its text so far. It must be quick.
    writing: Callable[[Callable[[], str]], None] | None = None

    @property
    def turn(self) -> TurnLog:
        return self.turns[-1]


class Model(Protocol):
    """Answers with the next message. The calls in it are named by `conversation.call_id`."""

    async def say(self, ask: Ask) -> Said:
        """Raises ModelError."""
        ...

    async def prewarm(self) -> None:
        """Do what is slow and can be done before the first turn."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def open_model(setup: Setup, workspace: Workspace) -> Model:
    """The backend that the host chose. Imports nothing of the others."""
    match setup.backend:
        case "local":
            from microclaw.agent.local.backend import LocalModel

            return LocalModel(setup)
        case "scripted":
            from microclaw.agent.scripted import ScriptedModel

            return ScriptedModel()
        case "anthropic":
            from microclaw.agent.anthropic_model import AnthropicModel

            return AnthropicModel(setup, workspace)
        case "openai":
            from microclaw.agent.openai_model import OpenAIModel

            return OpenAIModel(setup, workspace)
    raise msgspec.ValidationError(
        f"model backend {setup.backend!r} is unknown; use local, scripted, anthropic or openai"
    )
