"""A shell command as a list of simple commands, in the order in which they stand; nothing is expanded or run.

For deciding about a command before it runs (`destructive`). Compound commands are flattened: what stands in a loop, a
branch, a function, a subshell, `$(…)`, backquotes, `<(…)` or a here-document is in the list like the rest. What the
shell would put in place of `$x`, `$(…)`, `{a,b}` or `~` is not known: it is `UNKNOWN` in a word's text. Text that can't
be read so is `Unreadable`, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

#: Longest text, characters; deepest nesting; most simple commands.
TEXT_CHARS_MAX = 20_000
DEPTH_MAX = 20
COMMANDS_MAX = 1000

#: In a word's text, for each part that only the shell knows.
UNKNOWN = "\0"

#: Words of the grammar in front of a command, after which another command begins.
_BEFORE = frozenset({"if", "then", "elif", "else", "while", "until", "do", "!", "{"})
#: Words that close a compound command; only redirections may follow.
_AFTER = frozenset({"}", "fi", "done", "esac"})
_ENDS_WORD = frozenset(" \t\n;&|()<>")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\[[^]]*\])?\+?=")
_REDIRECTION = re.compile(r"[0-9]*(<<<|<<-|<<|<>|<&|>>|>&|>\||<|>)|(&>>|&>)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
_SEPARATOR = re.compile(r";;&|;;|;&|;|&&|&|\|\||\|&|\||\n")
_BRACES = re.compile(r"\{[^{}]*\}")
_ESAC = re.compile(r"esac(?![^\s;&|)])")
_ANSI = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)


class Unreadable(Exception):
    """It can't be read as a shell would read it. The text says why."""


class TooDeep(Unreadable):
    """It is nested too deep."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word, its quotes taken off."""

    text: str
    #: The shell puts the names of files in place of it.
    globs: bool = False
    #: The shell may make several words of it, or none.
    splits: bool = False
    #: Written without any quote.
    bare: bool = True

    @property
    def known(self) -> bool:
        return UNKNOWN not in self.text


@dataclass(slots=True)
class Simple:
    """A command, its arguments and what belongs to them."""

    words: list[Word] = field(default_factory=list)
    #: `NAME=value` in front of it.
    assignments: list[Word] = field(default_factory=list)
    #: Files that its output goes to.
    writes: list[Word] = field(default_factory=list)
    #: Here-documents and here-strings: its standard input.
    here: list[Word] = field(default_factory=list)
    #: The command whose output it reads.
    piped_from: Simple | None = None
    #: Commands with the same number are joined by `&&`: each runs only if all before it in the chain went well.
    chain: int = 0


def read(text: str) -> list[Simple]:
    """The simple commands of a text. :raises Unreadable: a shell would not read it, or we don't."""
    if len(text) > TEXT_CHARS_MAX:
        raise Unreadable(f"it is longer than {TEXT_CHARS_MAX} characters")
    if "\0" in text or "\r" in text:
        raise Unreadable("it holds a control character")
    found: list[Simple] = []
    _Reader(text, found).commands("")
    return found


class _Reader:
    """Reads one text; backquotes and here-documents get a reader of their own, one level deeper."""

    def __init__(self, text: str, found: list[Simple], parent: _Reader | None = None) -> None:
        self._text = text
        self._found = found
        self._depth: int = parent._depth if parent else 0
        #: How many chains there were, over all readers of a text.
        self._chains: list[int] = parent._chains if parent else [0]
        self._at = 0
        #: The command in front of the last `|`.
        self._piping: Simple | None = None
        #: Here-documents that begin after this line: the command, the delimiter, quoted or not, tabs taken off or not.
        self._pending: list[tuple[Simple, str, bool, bool]] = []

    # --- commands -----------------------------------------------------------------------------------------------

    def commands(self, closing: str) -> None:
        """Up to `closing` ("" = the text's end), which is read too."""
        piping, self._piping = self._piping, None
        with self._deeper():
            self._commands(closing)
        self._piping = piping

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise TooDeep(f"it is nested deeper than {DEPTH_MAX}")
        yield
        self._depth -= 1

    def _commands(self, closing: str) -> None:
        cases, in_pattern = 0, False
        now, before = Simple(chain=self._new_chain()), ""
        while True:
            self._blanks()
            if in_pattern:
                in_pattern = False
                if self._pattern():
                    cases -= 1
                continue
            here = self._peek()
            if here == "":
                if closing:
                    raise Unreadable(f"a {closing!r} is missing")
                break
            if here == closing:
                self._at += 1
                break
            if (redirection := _REDIRECTION.match(self._text, self._at)) and not self._is_process():
                self._redirect(now, redirection)
            elif separator := _SEPARATOR.match(self._text, self._at):
                self._at = separator.end()
                before = self._separated(now, separator[0], before)
                now = Simple(chain=now.chain if before == "&&" else self._new_chain())
                in_pattern = cases > 0 and separator[0] in (";;", ";&", ";;&")
            elif here == "(":
                self._parenthesis(now)
            elif here == ")":
                raise Unreadable("a ')' closes nothing")
            else:
                cases, in_pattern = self._take(now, self._word(), cases)
        self._finish(now)

    def _separated(self, now: Simple, separator: str, before: str) -> str:
        """A command ends here. Returns how the next one is joined to it."""
        if separator == "\n":
            self._here_documents()
            if before and not now.words and not now.assignments and not now.writes:
                return before  # a line may end after `&&` and `|`
        self._finish(now)
        if separator in ("|", "|&"):
            self._piping = now
        return separator

    def _finish(self, now: Simple) -> None:
        piping, self._piping = self._piping, None
        if now.words or now.assignments or now.writes or now.here:
            now.piped_from = piping
            self._found.append(now)
            if len(self._found) > COMMANDS_MAX:
                raise Unreadable(f"it has more than {COMMANDS_MAX} commands")

    def _new_chain(self) -> int:
        self._chains[0] += 1
        return self._chains[0]

    def _take(self, now: Simple, word: Word, cases: int) -> tuple[int, bool]:
        """One more word of the command. Returns how many `case` are open, and whether a pattern comes next."""
        if not now.words and _ASSIGNMENT.match(word.text):
            now.assignments.append(word)
            if self._peek() == "(":
                self._at += 1
                self._words_until(")")  # an array
        elif now.words or now.assignments or not word.bare:
            now.words.append(word)
            if word.text == "do" and word.bare and len(now.words) == 3 and now.words[0].text in ("for", "select"):
                now.words.clear()  # without a list: the loop's body begins
        elif word.text in _BEFORE or word.text in _AFTER:
            return cases - (word.text == "esac" and cases > 0), False
        elif word.text == "case":
            self._case()
            return cases + 1, True
        else:
            self._first(now, word)
        return cases, False

    def _first(self, now: Simple, word: Word) -> None:
        """The first word of a command, where some are the grammar's."""
        if word.text == "time":
            self._blanks()
            if self._text.startswith("-p", self._at):
                self._at += 2
        elif word.text == "function":
            self._blanks()
            self._word()
        elif word.text == "coproc":
            raise Unreadable("'coproc' is not read")
        elif word.text == "[[":
            self._test()
        elif word.text in ("for", "select") and self._text.startswith("((", self._skip_blanks(self._at)):
            self._blanks()
            self._arithmetic(2)
        else:
            now.words.append(word)

    def _parenthesis(self, now: Simple) -> None:
        if self._text.startswith("((", self._at) and not now.words and self._is_arithmetic(self._at + 2):
            begin = self._at + 2
            self._arithmetic(2)
            self._as_subshells(self._text[begin:self._at - 2])
        elif not now.words:
            self._at += 1
            self.commands(")")
        elif len(now.words) == 1 and self._text.startswith(")", self._skip_blanks(self._at + 1)):
            now.words.clear()  # a function's name; what it does is read as if it were called
            self._at = self._skip_blanks(self._at + 1) + 1
        else:
            raise Unreadable("a '(' stands where none can")

    def _as_subshells(self, text: str) -> None:
        """`((…))` is arithmetic to bash, and two subshells to plain shells: what they would run counts too."""
        found: list[Simple] = []
        try:
            _Reader(text, found, self).commands("")
        except TooDeep:
            raise
        except Unreadable:
            return
        # `$x > 3` is a command whose name is not known; to ask about every sum would help nobody.
        self._found += [command for command in found if command.words and command.words[0].known]

    def _case(self) -> None:
        """From `case` to `in`."""
        self._blanks()
        self._word()
        self._lines()
        if self._peek() != "i" or self._word().text != "in":
            raise Unreadable("a 'case' has no 'in'")

    def _pattern(self) -> bool:
        """A pattern of a `case`; True = there was none, the `case` ends."""
        self._lines()
        if self._peek() == "(":
            self._at += 1
        elif _ESAC.match(self._text, self._at):
            self._at += 4
            return True
        self._words_until(")", "|")
        return False

    def _test(self) -> None:
        """`[[ … ]]`: only what is run in it counts."""
        while True:
            self._lines()
            if self._peek() == "":
                raise Unreadable("a ']]' is missing")
            if self._peek() in "&|()<>;" and not self._is_process():
                self._at += 1
            elif self._word().text == "]]":
                return

    def _words_until(self, closing: str, between: str = "") -> None:
        while True:
            self._lines()
            here = self._peek()
            if here == "":
                raise Unreadable(f"a {closing!r} is missing")
            if here == closing:
                self._at += 1
                return
            if here in _ENDS_WORD and not self._is_process():
                if here != between:
                    raise Unreadable(f"a {here!r} stands where none can")
                self._at += 1
            else:
                self._word()

    # --- redirections -------------------------------------------------------------------------------------------

    def _redirect(self, now: Simple, found: re.Match[str]) -> None:
        self._at = found.end()
        operator = found[1] or found[2]
        self._blanks()
        if self._peek() == "" or (self._peek() in _ENDS_WORD and not self._is_process()):
            raise Unreadable(f"nothing follows {operator}")
        begin = self._at
        word = self._word()
        if operator in ("<<", "<<-"):
            if not word.known and not word.bare:
                raise Unreadable("a here-document's end is not known")
            # Nothing is expanded in it: `<<$x` ends at a line `$x`.
            end = word.text if word.known else self._text[begin:self._at]
            self._pending.append((now, end, not word.bare, operator == "<<-"))
        elif operator == "<<<":
            now.here.append(word)
        elif operator in (">", ">>", ">|", "&>", "&>>", "<>") or (operator == ">&" and not word.text.isdigit()):
            now.writes.append(word)

    def _here_documents(self) -> None:
        """The line has ended: the bodies of its here-documents follow."""
        pending, self._pending = self._pending, []
        for command, end, is_quoted, takes_tabs in pending:
            lines = []
            while self._at < len(self._text):
                stop = self._text.find("\n", self._at)
                stop = len(self._text) if stop < 0 else stop
                line, self._at = self._text[self._at:stop], stop + 1
                line = line.lstrip("\t") if takes_tabs else line
                if line == end:
                    break
                lines.append(line + "\n")
            body = "".join(lines)
            if not is_quoted:
                body = _Reader(body, self._found, self).expanded("")
            command.here.append(Word(body))

    # --- words --------------------------------------------------------------------------------------------------

    def _word(self) -> Word:
        """The word that begins here."""
        parts: list[str] = []
        globs, splits, bare, begin = False, False, True, self._at
        while (here := self._peek()) and (here not in _ENDS_WORD or self._is_process()):
            if (quoted := self._quoted()) is not None:
                bare = False
                parts.append(quoted)
            elif here in "$`<>":
                grown = self._expansion()
                splits = splits or UNKNOWN in grown
                parts.append(grown)
            elif (braces := _BRACES.match(self._text, self._at)) and ("," in braces[0] or ".." in braces[0]):
                # Each alternative is a word; what is quoted or run in them is not looked for.
                if set(braces[0]) & set("$`\\'\""):
                    raise Unreadable("braces hold more than plain words")
                splits = True
                self._at = braces.end()
                parts.append(UNKNOWN)
            else:
                globs = globs or here in "*?["
                parts.append(UNKNOWN if here == "~" and self._at == begin else here)
                self._at += 1
        return Word("".join(parts), globs, splits, bare)

    def _quoted(self) -> str | None:
        """The quoted part of a word that begins here, None = none does."""
        here, text, at = self._peek(), self._text, self._at
        if here == "\\":
            self._at += 2
            escaped = text[at + 1:at + 2]
            return "" if escaped == "\n" else escaped
        if here == "'":
            return self._single()
        if here == '"' or text.startswith('$"', at):
            self._at += 1 if here == '"' else 2
            return self.expanded('"')
        if text.startswith("$'", at):
            found = _ANSI.match(text, at + 1)
            if found is None:
                raise Unreadable("a quote is missing")
            self._at = found.end()
            return UNKNOWN if "\\" in found[1] else found[1]
        return None

    def expanded(self, closing: str) -> str:
        """What stands between double quotes, in a here-document or in `${…}`, up to `closing`, which is read too."""
        with self._deeper():
            return self._expanded(closing)

    def _expanded(self, closing: str) -> str:
        parts = []
        while (here := self._peek()) != closing:
            if here == "":
                raise Unreadable(f"a {closing!r} is missing")
            if here == "\\":
                escaped = self._text[self._at + 1:self._at + 2]
                self._at += 2
                parts.append("" if escaped == "\n" else escaped if escaped in '$`"\\' else "\\" + escaped)
            elif here in "$`":
                parts.append(self._expansion())
            elif closing == "}" and here == "'":
                parts.append(self._single())
            elif closing == "}" and here == '"':
                self._at += 1
                parts.append(self.expanded('"'))
            else:
                self._at += 1
                parts.append(here)
        self._at += len(closing)
        return "".join(parts)

    def _expansion(self) -> str:
        """`$…`, backquotes or `<(…)`: UNKNOWN, and what is run for it is among the commands."""
        text, at = self._text, self._at
        if text[at] == "`":
            self._backquotes()
        elif text[at] in "<>" or (text.startswith("$(", at) and not self._is_arithmetic(at + 3)):
            self._at += 2
            pending, self._pending = self._pending, []
            self.commands(")")
            self._pending = pending + self._pending
        elif text.startswith("$((", at):
            self._arithmetic(3)
        elif text.startswith("${", at):
            self._at += 2
            self.expanded("}")
        elif variable := _VARIABLE.match(text, at + 1):
            self._at = variable.end()
        else:
            self._at += 1
            return "$"
        return UNKNOWN

    def _backquotes(self) -> None:
        inner, at = [], self._at + 1
        while self._text[at:at + 1] != "`":
            if at >= len(self._text):
                raise Unreadable("a '`' is missing")
            if self._text[at] == "\\" and self._text[at + 1:at + 2] in ("`", "\\", "$"):
                at += 1
            inner.append(self._text[at])
            at += 1
        self._at = at + 1
        _Reader("".join(inner), self._found, self).commands("")

    def _is_arithmetic(self, at: int) -> bool:
        """The text from here is arithmetic: what follows its last parenthesis is one more."""
        if self._text[at - 1:at] != "(":
            return False
        depth = 0
        for place in range(at, len(self._text)):
            depth += {"(": 1, ")": -1}.get(self._text[place], 0)
            if depth < 0:
                return self._text.startswith("))", place)
        return False

    def _arithmetic(self, opening: int) -> None:
        """`((…))` or `$((…))`: numbers, but commands may be run in it."""
        self._at += opening
        depth = 0
        while (here := self._peek()) != ")" or depth:
            if here == "":
                raise Unreadable("a '))' is missing")
            if here in "$`":
                with self._deeper():
                    self._expansion()
                continue
            depth += {"(": 1, ")": -1}.get(here, 0)
            self._at += 1
        if not self._text.startswith("))", self._at):
            raise Unreadable("a '))' is missing")
        self._at += 2

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise Unreadable("a quote is missing")
        inner, self._at = self._text[self._at + 1:end], end + 1
        return inner

    # --- characters ---------------------------------------------------------------------------------------------

    def _peek(self) -> str:
        return self._text[self._at:self._at + 1]

    def _is_process(self) -> bool:
        return self._text.startswith(("<(", ">("), self._at)

    def _skip_blanks(self, at: int) -> int:
        while self._text.startswith((" ", "\t", "\\\n"), at):
            at += 2 if self._text[at] == "\\" else 1
        return at

    def _blanks(self) -> None:
        """Past blanks and a comment."""
        self._at = self._skip_blanks(self._at)
        if self._peek() == "#":
            end = self._text.find("\n", self._at)
            self._at = len(self._text) if end < 0 else end

    def _lines(self) -> None:
        """Past blanks, comments and line ends."""
        self._blanks()
        while self._peek() == "\n":
            self._at += 1
            self._here_documents()
            self._blanks()
