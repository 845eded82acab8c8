"""The table of commands: name → module, one line of help."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command of the CLI."""

    #: Below `microclaw.cli`; has `arguments(parser)` and `run(context, options)`.
    module: str
    help: str


COMMANDS = {
    "up": Command("up", "start MicroClaw in the foreground (-d: in the background)"),
    "down": Command("down", "stop MicroClaw"),
    "status": Command("status", "which services run, since when, and what is in trouble"),
    "start": Command("change", "start a service"),
    "stop": Command("change", "stop a service"),
    "restart": Command("change", "stop and start a service"),
    "supervisorctl": Command("supervisorctl", "supervisor's own control program, on this installation"),
    "logs": Command("logs", "show a service's log (-f: follow it)"),
    "chat": Command("chat", "talk to your assistant in the terminal"),
    "agent": Command("agent", "say one thing and print the answer"),
    "message": Command("message", "send a message to a chat, search past messages"),
    "onboard": Command("onboard", "set it up step by step: model, name, channel, you as its owner, sandbox"),
    "channels": Command("channels", "the chats it lives in: list, add, remove, login, logout, status"),
    "groups": Command("groups", "the chats it works in: list, show, add, rm"),
    "pairing": Command("pairing", "who wants to be let in: list, approve, deny, revoke"),
    "users": Command("users", "the people it knows: list, add, role, rm"),
    "cron": Command("cron", "list, add and change scheduled tasks"),
    "sessions": Command("sessions", "the agents' conversations: list, show, export, fork"),
    "memory": Command("memory", "what agents remember, and whose words: list, show, allow, refuse, forget"),
    "runs": Command("runs", "what runs, waits and lately failed"),
    "bus": Command("bus", "look at the bus: info, ls, sub, tail, replay, dlq, check, backup, …"),
    "config": Command("config", "show, check and change the configuration"),
    "secrets": Command("secrets", "keep keys: set, list, rotate, rm"),
    "sandbox": Command("sandbox", "where agents run: status, explain GROUP, run -- COMMAND"),
    "egress": Command("egress", "where agents may go: list, allow, deny, forget, explain"),
    "usage": Command("usage", "what the model calls cost, in tokens and money"),
    "budget": Command("budget", "what the model may cost in a day: show, set, forget"),
    "approvals": Command("approvals", "what needs your yes: list, approve, deny, grants, revoke"),
    "audit": Command("audit", "the log of every decision: tail, verify, export"),
    "migrate": Command("migrate", "take over another installation: from-nanoclaw PATH (--apply: do it)"),
    "doctor": Command("doctor", "look for what is wrong (--fix: mend it)"),
    "prove": Command("prove", "harm a throw-away copy at random, and account for every message"),
    "completion": Command("completion", "print a completion script for bash or zsh"),
    "version": Command("version", "print the version"),
}
