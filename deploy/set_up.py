"""Makes `.venv` and installs MicroClaw into it; called by ./microclaw and ./test when the lock files have changed.

    set_up.py STAMP requirements.lock [requirements/dev.lock]

Standard library only: it runs with the system's Python (3.11 or newer). Whatever is interrupted is made anew by the
next call; two calls at once wait for each other. The stamp is written last.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
#: There while packages are being installed: a venv with this is not to be trusted.
UNFINISHED = VENV / "unfinished"
LOG = VENV / "set-up.log"
#: Lines of the log that an error repeats.
TAIL_LINES = 15

NO_WAY = """\
this Python can't make a virtual environment. An administrator can help with one line:
    sudo apt install python3-venv
(or install uv, then start again)"""


class Failed(Exception):
    """The set-up can't go on; says what to do."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    stamp, *locks = arguments
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp_file = VENV / f"stamp-{Path(locks[-1]).stem}"
        if stamp_file.exists() and stamp_file.read_text() == stamp and PYTHON.exists() and not UNFINISHED.exists():
            # Somebody else did it while we waited.
            return 0
        try:
            set_up(locks)
        except Failed as error:
            say(f"microclaw: {error}")
            return 1
        except KeyboardInterrupt:
            say("microclaw: interrupted; start again to go on")
            return 130
        stamp_file.write_text(stamp)
        return 0


def set_up(locks: Sequence[str]) -> None:
    """A working `.venv` with these locks and our package. Raises Failed."""
    if UNFINISHED.exists() or (VENV.exists() and not _works(PYTHON)):
        say("the last set-up was not finished: starting over")
        shutil.rmtree(VENV)
    fresh = not VENV.exists()
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    install = installer(fresh)
    install("the packages (about a minute)", ["--require-hashes", "-r", "requirements/build.lock", "-r", locks[-1]])
    install("MicroClaw", ["--no-deps", "--no-build-isolation", "-e", "."])
    # The services start quicker, also where PYTHONDONTWRITEBYTECODE is set.
    subprocess.run([PYTHON, "-m", "compileall", "-q", "libs", "services", "migrations"], cwd=ROOT, check=False)
    UNFINISHED.unlink()


def installer(fresh: bool) -> Callable[[str, Sequence[str]], None]:
    """Make the environment if it is `fresh`, and say how packages get into it. Raises Failed."""
    uv = shutil.which("uv")
    pip: list[str | Path] = [PYTHON, "-m", "pip"]
    if fresh:
        say(f"making {VENV.name} with Python {sys.version.split()[0]}")
        if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
            run("the environment", [sys.executable, "-m", "venv", VENV])
        elif uv:
            run("the environment", [uv, "venv", "-q", "--allow-existing", "--python", sys.executable, VENV])
        elif importlib.util.find_spec("venv") and importlib.util.find_spec("pip"):
            # Debian without python3-venv: the environment can be made, only pip can't be put into it.
            run("the environment", [sys.executable, "-m", "venv", "--without-pip", VENV])
        elif importlib.util.find_spec("virtualenv"):
            run("the environment", [sys.executable, "-m", "virtualenv", "-q", VENV])
        else:
            raise Failed(NO_WAY)
    if not _works(*pip, "--version"):
        if importlib.util.find_spec("pip"):
            pip = [sys.executable, "-m", "pip", "--python", PYTHON]
        elif uv:
            return lambda what, arguments: run(what, [
                # --no-config: pyproject's settings are for making the locks.
                uv, "--no-config", "pip", "install", "--python", PYTHON, "--compile-bytecode", *arguments,
            ])
        else:
            raise Failed(NO_WAY)
    return lambda what, arguments: run(what, [
        *pip, "--no-input", "--disable-pip-version-check", "install", "--progress-bar", "off", *arguments,
    ])


def run(what: str, command: Sequence[str | Path]) -> None:
    """Run it, its output going to the log and, on a terminal, its steps to one changing line. Raises Failed."""
    say(f"installing {what} …")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    lines = []
    process = subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    with process:
        for line in process.stdout or ():
            lines.append(line)
            if sys.stderr.isatty() and line.startswith(("Collecting ", "Installing ", "  Downloading ")):
                print(f"\r\033[K  {line.strip()[: shutil.get_terminal_size().columns - 4]}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if VENV.exists():
        with LOG.open("a") as log:
            log.writelines(lines)
    if process.returncode != 0:
        raise Failed(
            f"installing {what} failed (status {process.returncode}):\n" + "".join(lines[-TAIL_LINES:])
            + "mend that (a network, a full disk?) and start again"
        )


def _works(*command: str | Path) -> bool:
    """Whether this program can be run; without arguments a Python is asked for its version."""
    arguments = [str(part) for part in command] if len(command) > 1 else [str(command[0]), "--version"]
    try:
        return subprocess.run(arguments, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def say(text: str) -> None:
    """To the person who waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
