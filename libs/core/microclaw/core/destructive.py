"""Whether a shell command destroys something that cannot be had back: pure, by its words, before it runs.

A seat belt over the group's own files and accounts, against the slip of an agent that means well. The wall is the
sandbox: what a script or another language's program does is not looked into, and a name may be a link to elsewhere.
What can't be read counts as destructive.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from typing import ClassVar

from microclaw.core.destructive_programs import (
    ALWAYS,
    GIT_VALUED,
    INTERPRETERS,
    NO_WAY_BACK,
    SHELLS,
    SQL_CLIENTS,
    SQL_STATEMENT,
    WRAPPERS,
    Wrapper,
    sql_destroys,
)
from microclaw.core.shell import UNKNOWN, Simple, Unreadable, Word, read

#: Where commands run; and what may be deleted there unasked: small, and gone with the worker.
GROUP = "/workspace/group"
SCRATCH = "/tmp"  # noqa: S108 - inside the sandbox
#: Texts within texts (`sh -c 'sh -c …'`) and programs that run programs.
DEPTH_MAX = 8
#: Characters of a word in a reason.
SHOWN_CHARS_MAX = 120

_STANDARD_INPUT = frozenset({"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"})
_NO_DEVICES = ("/dev/null", "/dev/zero", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/fd/", "/dev/shm/")  # noqa: S108
_SHOWS = frozenset({"--version", "--help", "-V", "-h"})
_MOVES = frozenset({"cd", "pushd", "popd"})
_ANYTHING = Word(UNKNOWN, splits=True, bare=False)
_TOO_DEEP = "it can't be read: it is nested too deep"


def why_destructive(command: str, cwd: str = GROUP) -> str:
    """Why a yes is needed before this shell command runs, in words for a person; "" = none is.

    :param cwd: where it runs, an absolute path.
    """
    return _Judge(cwd).text(command, 0)


class _Judge:
    def __init__(self, cwd: str) -> None:
        #: Where the command being looked at runs; None = not known.
        self._here: str | None = cwd

    def text(self, text: str, depth: int) -> str:
        """The same of a text within a text."""
        if depth > DEPTH_MAX:
            return _TOO_DEEP
        try:
            commands = read(text)
        except Unreadable as error:
            return f"it can't be read as a shell command: {error}"
        outer = self._here
        # After a `cd` that may have failed nobody knows where it is, but in the chain that only its success goes on.
        at_first = None if any(_name(command.words) in _MOVES for command in commands) else outer
        chain, there = 0, at_first
        for command in commands:
            if command.chain != chain:
                chain, there = command.chain, at_first
            self._here = there
            if why := self._command(command, depth):
                return why
            if _name(command.words) in _MOVES:
                target = command.words[1] if len(command.words) == 2 else _ANYTHING
                is_plain = target.known and not target.globs and target.text.startswith("/")
                there = target.text if is_plain else None
        self._here = outer
        return ""

    # --- one command --------------------------------------------------------------------------------------------

    def _command(self, command: Simple, depth: int) -> str:
        for target in command.writes:
            if target.text.startswith("/dev/") and not target.text.startswith(_NO_DEVICES):
                return f"it writes over the device {_shown(target)}"
        return self._words(command.words, command, depth)

    def _words(self, words: Sequence[Word], command: Simple, depth: int) -> str:
        """What these words run; `command` is where they stand."""
        if not words:
            return ""
        if depth > DEPTH_MAX:
            return _TOO_DEEP
        name, rest = _name(words), words[1:]
        if not name:
            return "which program it runs is known only when it runs"
        if name.startswith("mkfs.") or name in ALWAYS:
            return f"{name} destroys what was there before"
        for beginning in NO_WAY_BACK:
            if name == beginning[0] and _is_in_order(beginning[1:], rest):
                return f"{' '.join(beginning)} can't be taken back"
        if name in WRAPPERS:
            return self._wrapped(name, WRAPPERS[name], rest, command, depth)
        if name in SHELLS:
            return self._shell(name, rest, command, depth)
        if name in INTERPRETERS:
            return self._interpreter(name, rest, command, depth)
        if name in SQL_CLIENTS:
            return _sql(name, rest, command)
        rule = self._rules.get(name)
        return rule(self, rest, command, depth) if rule else ""

    def _wrapped(self, name: str, wrapper: Wrapper, rest: Sequence[Word], command: Simple, depth: int) -> str:
        """`env`, `nice`, `xargs` and their like: what they run is what counts."""
        left = list(rest)
        if wrapper.then and (not left or left.pop(0).text != wrapper.then):
            return ""  # another use of the program (`poetry install`)
        code = _take_options(wrapper, left)
        while name == "env" and left and "=" in left[0].text:
            left.pop(0)
        del left[:wrapper.positionals]
        if code is None and wrapper.texts:
            code = _take_options(wrapper, left)
        if code is not None:
            return self._code(name, code, depth)
        if wrapper.joins:
            if not all(word.known for word in left):
                return _only_then(name)
            return self.text(" ".join(word.text for word in left), depth + 1)
        if name in ("xargs", "parallel") and left:
            left.append(_ANYTHING)
        return self._words(left, command, depth + 1)

    def _shell(self, name: str, rest: Sequence[Word], command: Simple, depth: int) -> str:
        left = list(rest)
        is_code = reads = False
        while left and left[0].text[:1] in ("-", "+") and left[0].text not in _STANDARD_INPUT:
            option = left.pop(0)
            if not option.known:
                return _only_then(name)
            if option.text in _SHOWS:
                return ""
            if option.text == "--":
                break
            if not option.text.startswith("--"):
                is_code, reads = is_code or "c" in option.text, reads or "s" in option.text
                takes_one = option.text[-1:] in ("o", "O")
            else:
                takes_one = option.text in ("--rcfile", "--init-file")
            if takes_one and left:
                left.pop(0)
        if is_code:
            return self._code(name, left[0] if left else None, depth)
        if left and not reads and left[0].text not in _STANDARD_INPUT:
            return "" if left[0].known else _only_then(name)
        return self._from_input(name, command, depth)

    def _from_input(self, name: str, command: Simple, depth: int) -> str:
        """A shell that reads what it runs."""
        if not command.here:
            return f"{name} runs whatever comes to it"
        return self._code(name, command.here[-1], depth)

    def _code(self, name: str, code: Word | None, depth: int) -> str:
        if code is None:
            return ""
        return self.text(code.text, depth + 1) if code.known else _only_then(name)

    def _interpreter(self, name: str, rest: Sequence[Word], command: Simple, depth: int) -> str:
        """Python and others: their programs are not looked into, unless nobody has seen them at all."""
        for place, word in enumerate(rest):
            if word.text == "-m" and name.startswith(("python", "pypy")):
                return self._words(rest[place + 1:], command, depth + 1)
            if word.text in _STANDARD_INPUT:
                break
            # A script, or code in the next word.
            if word.text in _SHOWS or not word.text.startswith("-") or word.text[-1] in "ceEr":
                script = word.text if word.known else ""
                return self._words([Word(posixpath.basename(script)), *rest[place + 1:]], command, depth + 1) \
                    if script.endswith("setup.py") else ""
        return "" if command.here else f"{name} runs whatever comes to it"

    # --- files --------------------------------------------------------------------------------------------------

    def _is_scratch(self, word: Word) -> bool:
        """It surely lies in the scratch folder, as far as names tell."""
        if not word.known or (not word.text.startswith("/") and self._here is None):
            return False
        path = posixpath.normpath(posixpath.join(self._here or "/", word.text))
        return path == SCRATCH or path.startswith(SCRATCH + "/")

    def _rm(self, rest: Sequence[Word], _command: Simple, _depth: int) -> str:
        flags, targets = _split(rest)
        is_deep = _has(flags, "rR", "--recursive")
        for target in targets:
            if self._is_scratch(target):
                continue
            if is_deep:
                return f"it deletes {_shown(target)} with all that is in it"
            if target.splits or target.globs:
                return f"it deletes whatever {_shown(target)} means"
        return ""

    def _shred(self, rest: Sequence[Word], _command: Simple, _depth: int) -> str:
        bad = next((target for target in _split(rest)[1] if not self._is_scratch(target)), None)
        return f"it wipes {_shown(bad)}" if bad else ""

    def _dd(self, rest: Sequence[Word], _command: Simple, _depth: int) -> str:
        for word in rest:
            if word.text.startswith("of=") or not word.known:
                target = Word(word.text.removeprefix("of="))
                if not target.text.startswith(_NO_DEVICES) and not self._is_scratch(target):
                    return f"dd writes over {_shown(target)}"
        return ""

    def _find(self, rest: Sequence[Word], command: Simple, depth: int) -> str:
        left = [word for word in rest if word.text not in ("-H", "-L", "-P")]
        tests = next((at for at, word in enumerate(left) if word.text[:1] in ("-", "(", "!")), len(left))
        starts, left = left[:tests] or [Word(".")], left[tests:]
        outside = next((word for word in starts if not self._is_scratch(word)), None)
        if outside and any(word.text == "-delete" for word in left):
            return f"find deletes what it finds in {_shown(outside)}"
        each = Word(outside.text if outside else starts[0].text, globs=True, splits=True)
        for place, word in enumerate(left):
            if word.text in ("-exec", "-execdir", "-ok", "-okdir"):
                end = next((at for at in range(place, len(left)) if left[at].text in (";", "+")), len(left))
                run = [each if part.text == "{}" else part for part in left[place + 1:end]]
                if why := self._words(run, command, depth + 1):
                    return why
        return ""

    def _rsync(self, rest: Sequence[Word], _command: Simple, _depth: int) -> str:
        flags, targets = _split(rest)
        if not any(flag.startswith(("--del", "--remove-source")) for flag in flags):
            return ""
        return "" if targets and self._is_scratch(targets[-1]) else "rsync deletes what is not at the source"

    # --- others -------------------------------------------------------------------------------------------------

    def _git(self, rest: Sequence[Word], _command: Simple, _depth: int) -> str:
        left = list(rest)
        while left and left[0].text.startswith("-"):
            if left.pop(0).text in GIT_VALUED and left:
                left.pop(0)
        if not left:
            return ""
        verb = left[0].text
        if not left[0].known or _git_loses(verb, *_split(left[1:]), has_end=any(word.text == "--" for word in left)):
            return f"git {_shown(left[0])} loses work or history, here or on the server"
        return ""

    def _source(self, rest: Sequence[Word], command: Simple, depth: int) -> str:
        if rest and rest[0].text in _STANDARD_INPUT:
            return self._from_input("source", command, depth)
        return "" if not rest or rest[0].known else _only_then("source")

    def _trap(self, rest: Sequence[Word], _command: Simple, depth: int) -> str:
        left = [word for word in rest if word.text != "--"]
        return self._code("trap", left[0], depth) if len(left) > 1 else ""

    def _alias(self, rest: Sequence[Word], _command: Simple, depth: int) -> str:
        texts = (Word(word.text.partition("=")[2]) for word in rest if "=" in word.text)
        return next((why for text in texts if (why := self._code("alias", text, depth))), "")

    _rules: ClassVar[dict[str, Callable[[_Judge, Sequence[Word], Simple, int], str]]] = {
        "rm": _rm, "shred": _shred, "srm": _shred, "wipe": _shred, "dd": _dd, "find": _find, "rsync": _rsync,
        "git": _git, ".": _source, "source": _source, "trap": _trap, "alias": _alias,
    }


def _take_options(wrapper: Wrapper, left: list[Word]) -> Word | None:
    """Take the options off; what one of them gives the shell to run, if one does."""
    while left and left[0].text.startswith("-") and left[0].text != "-":
        option = left.pop(0)
        text = option.text
        if not option.known:
            return _ANYTHING
        if text == "--":
            break
        if text in wrapper.shows:
            left.clear()
        elif text in wrapper.texts:
            return left[0] if left else Word("")
        elif wrapper.texts and text.startswith(("--split-string=", "--command=")):
            return Word(text.partition("=")[2])
        elif text[:2] in wrapper.texts and not text.startswith("--"):
            return Word(text[2:])
        elif text in wrapper.valued and left:
            left.pop(0)
    return None


def _git_loses(verb: str, flags: list[str], targets: list[Word], *, has_end: bool) -> bool:
    names = [target.text for target in targets]
    is_forced = _has(flags, "f", "--force")
    match verb:
        case "push":
            ways = any(flag.startswith(("--force", "--delete", "--mirror", "--prune")) for flag in flags)
            return ways or _has(flags, "fd") or any(name[:1] in ("+", ":", UNKNOWN) for name in names)
        case "reset":
            return _has(flags, "", "--hard", "--merge")
        case "clean":
            return is_forced and not _has(flags, "n", "--dry-run")
        case "checkout":
            return is_forced or has_end or "." in names
        case "switch":
            return is_forced or _has(flags, "", "--discard-changes")
        case "restore":
            return not _has(flags, "S", "--staged") or _has(flags, "W", "--worktree")
        case "branch":
            return _has(flags, "DM") or (_has(flags, "d", "--delete") and is_forced)
        case "tag" | "update-ref":
            return _has(flags, "d", "--delete")
        case "stash" | "reflog":
            return names[:1] in (["drop"], ["clear"], ["expire"], ["delete"])
        case "worktree":
            return names[:1] == ["remove"] and is_forced
        case "gc":
            return any(flag.startswith("--prune") for flag in flags)
    return verb in ("filter-branch", "filter-repo")


def _sql(name: str, rest: Sequence[Word], command: Simple) -> str:
    positional = 0
    for place, word in enumerate(rest):
        positional += not word.text.startswith("-")
        is_statement = (place > 0 and rest[place - 1].text in SQL_STATEMENT) or (
            positional > 1 and name in ("sqlite", "sqlite3", "duckdb")
        )
        if is_statement and not word.known:
            return _only_then(name)
    piped = command.piped_from
    told = piped.words[1:] if piped and _name(piped.words) in ("echo", "printf") else []
    for word in (*rest, *command.here, *told):
        option, is_option, value = word.text.partition("=")
        if what := sql_destroys(value if is_option and option.startswith("--") else word.text):
            return f"{what} can't be taken back"
    return ""


def _name(words: Sequence[Word]) -> str:
    """The program's, without its folder; "" = it is not known."""
    if not words or not words[0].known or (words[0].globs and words[0].text != "["):
        return ""
    return posixpath.basename(words[0].text)


def _split(words: Sequence[Word]) -> tuple[list[str], list[Word]]:
    """Options, and what they are about."""
    flags: list[str] = []
    targets: list[Word] = []
    is_open = True
    for word in words:
        if is_open and word.text == "--":
            is_open = False
        elif is_open and word.text.startswith("-") and len(word.text) > 1:
            flags.append(word.text)
        else:
            targets.append(word)
    return flags, targets


def _has(flags: Sequence[str], letters: str, *names: str) -> bool:
    """One of the letters is among the short options, or one of the names (or a beginning of it) among the long."""
    for flag in flags:
        if flag.startswith("--"):
            if any(name.startswith(flag) for name in names if len(flag) > len("--")):
                return True
        elif set(flag[1:]) & set(letters):
            return True
    return False


def _is_in_order(wanted: Sequence[str], words: Sequence[Word]) -> bool:
    """All of `wanted` are among the words, in this order; options and their values may stand between them."""
    left = iter(word.text.lower() for word in words)
    return all(part in left for part in wanted)


def _only_then(name: str) -> str:
    return f"what {name} runs is known only when it runs"


def _shown(word: Word) -> str:
    # It is shown in a chat and on a terminal: nothing in it may steer them.
    text = "".join(char if char.isprintable() else "…" for char in word.text)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"
