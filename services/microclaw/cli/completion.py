"""`microclaw completion bash|zsh`: commands, actions, services and flags, without starting Python at every TAB."""

from __future__ import annotations

import argparse
import re
from importlib import import_module

from microclaw.cli.commands import COMMANDS
from microclaw.cli.context import Context
from microclaw.cli.supervisord import configuration

_FLAGS = "--json --no-color --quiet --profile --config --help"

_BASH = """\
_microclaw() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
    elif [ "${{word#-}}" != "$word" ]; then
        COMPREPLY=($(compgen -W "{flags}" -- "$word"))
    else
        case $command in
            start|stop|restart) COMPREPLY=($(compgen -W "{services}" -- "$word")) ;;
            logs) COMPREPLY=($(compgen -W "{services} supervisord" -- "$word")) ;;
            completion) COMPREPLY=($(compgen -W "bash zsh" -- "$word")) ;;
            *) [ "$COMP_CWORD" -eq 2 ] && case $command in
{actions}
            esac ;;
        esac
    fi
}}
complete -F _microclaw microclaw
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="eval the output in its start file")


def run(_context: Context, options: argparse.Namespace) -> int:
    """Print the script."""
    services = " ".join(re.findall(r"^\[program:(\w+)\]", configuration().read_text(), re.MULTILINE))
    script = _BASH.format(commands=" ".join(COMMANDS), flags=_FLAGS, services=services, actions=_actions())
    print(f"autoload -U +X bashcompinit && bashcompinit\n{script}" if options.shell == "zsh" else script, end="")
    return 0


def _actions() -> str:
    """A line for each command that has actions."""
    lines = []
    for name, command in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=name)
        import_module(f"microclaw.cli.{command.module}").arguments(parser)
        found = parser._subparsers  # argparse has no other way to ask
        words = [word for group in (found._group_actions if found else ()) for word in group.choices or ()]
        if words:
            lines.append(f'                {name}) COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$word")) ;;')
    return "\n".join(lines)
