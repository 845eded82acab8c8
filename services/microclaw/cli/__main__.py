"""`microclaw …`: reads the command, imports it, runs it, turns its errors into a line and an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import itertools
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from microclaw.cli.commands import COMMANDS
from microclaw.cli.context import Context
from microclaw.core.errors import MicroclawError, UsageError

#: What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130

_EPILOG = "exit codes: 0 well, 1 failed, 2 usage or configuration, 3 not running, 4 denied, 5 unhealthy"


class Parser(argparse.ArgumentParser):
    """Says errors in our form."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    open_streams()
    try:
        arguments = flags_first(arguments)
        command = command_in(arguments)
        options, strange = parser(command).parse_known_args(arguments)
        if strange:
            program = f"microclaw {command}" if command else "microclaw"
            raise UsageError(f"{' '.join(strange)} is not understood; see `{program} --help`")
        context = context_from(options)
        if options.command is None:
            parser(None).print_help()
            return 2
        code = import_module(f"microclaw.cli.{COMMANDS[options.command].module}").run(context, options)
        sys.stdout.flush()
        return int(code or 0)
    except MicroclawError as error:
        print(f"microclaw: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, `less`) has seen enough. Python must not complain about it at exit either.
        discard_output()
        return 0
    except UnicodeEncodeError:
        # Bytes of the command line that are no text, which Python passes on as surrogates.
        print("microclaw: what was given is not UTF-8 text: write it in UTF-8", file=sys.stderr)
        return UsageError.exit_code
    except OSError as error:
        # A disk, a folder's mode, a name that is too long: nothing that a trace would help with.
        if error.filename is None and error.errno == errno.ENOSPC:
            discard_output()
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        why = f"{where}{error.strerror or error}"
        print(f"microclaw: {why}; `microclaw doctor` looks at folders and disk", file=sys.stderr)
        return 1


def open_streams() -> None:
    """A closed standard stream is as /dev/null; what no encoding fits is an escape, or a mark."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if mode == "w" else "replace")


def discard_output() -> None:
    """Python must not complain about what it still holds at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flags_first(arguments: list[str]) -> list[str]:
    """The same with the global flags and their values in front, so that they may stand anywhere before a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags: list[str] = []
    others: list[str] = []
    words = iter(arguments[:end])
    for word in words:
        if word in ("--json", "--no-color", "--quiet") or word.startswith(("--profile=", "--config=")):
            flags.append(word)
        elif word in ("--profile", "--config"):
            flags += [word, *itertools.islice(words, 1)]
        else:
            others.append(word)
    return flags + others + arguments[end:]


def command_in(arguments: Sequence[str]) -> str | None:
    """The command among the arguments, so that only that one is imported; None = there is none.

    :raises UsageError: there is no such command.
    """
    words = iter(arguments)
    for word in words:
        if word in ("--profile", "--config"):
            next(words, None)
        elif not word.startswith("-"):
            if word in COMMANDS:
                return word
            from difflib import get_close_matches

            close = get_close_matches(word, COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else "`microclaw --help` lists the commands"
            raise UsageError(f"there is no command {word!r}; {hint}")
    return None


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser, with the arguments of `chosen` alone; the others are only named."""
    shared = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--json", action="store_true", help="print JSON")
    shared.add_argument("--no-color", action="store_true", help="no colours (also: NO_COLOR)")
    shared.add_argument("--quiet", action="store_true", help="only errors and what was asked for")
    shared.add_argument("--profile", metavar="NAME", help="another installation of yours, by name")
    shared.add_argument("--config", metavar="PATH", help="another configuration file")
    root = Parser(prog="microclaw", description="Your personal assistant.", parents=[shared], epilog=_EPILOG)
    commands = root.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", parser_class=Parser, prog="microclaw"
    )
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help, parents=[shared])
        if name == chosen:
            import_module(f"microclaw.cli.{command.module}").arguments(sub)
    return root


def context_from(options: argparse.Namespace) -> Context:
    """What the global flags mean."""
    env = dict(os.environ)
    if profile := getattr(options, "profile", None):
        if not profile.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"--profile {profile!r}: letters, digits, - and _ only")
        state = env.get("XDG_STATE_HOME") or f"{env.get('HOME', '~')}/.local/state"
        env["MICROCLAW_HOME"] = f"{state}/microclaw-{profile}"
    if config := getattr(options, "config", None):
        env["MICROCLAW_CONFIG"] = os.path.abspath(config)  # noqa: PTH100 - no pathlib for a quick start
    return Context(
        env=env, json=getattr(options, "json", False), colour=not getattr(options, "no_color", False),
        quiet=getattr(options, "quiet", False),
    )


if __name__ == "__main__":
    sys.exit(main())
