"""What is known of programs, for `destructive`: which run another program, and which destroy what they are told."""

from __future__ import annotations

import re
from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A program that runs another one."""

    #: Options that take the next word.
    valued: frozenset[str] = frozenset()
    #: Options whose next word is a shell text.
    texts: frozenset[str] = frozenset()
    #: With one of these it runs nothing.
    shows: frozenset[str] = frozenset()
    #: Words between its options and the program.
    positionals: int = 0
    #: A subcommand that must follow its name.
    then: str = ""
    #: The words that follow are joined to a shell text.
    joins: bool = False


SHELLS = _words("sh bash dash ash zsh ksh mksh rbash fish")
#: They run a program that they are given, or read one.
INTERPRETERS = _words(
    "python python2 python3 python3.11 python3.12 python3.13 python3.14 pypy3 perl ruby node nodejs php lua deno bun"
)

WRAPPERS = {
    "env": Wrapper(_words("-u --unset -C --chdir"), texts=_words("-S --split-string")),
    "nice": Wrapper(_words("-n --adjustment")),
    "ionice": Wrapper(_words("-c -n --class --classdata")),
    "chrt": Wrapper(positionals=1),
    "taskset": Wrapper(positionals=1),
    "timeout": Wrapper(_words("-s --signal -k --kill-after"), positionals=1),
    "time": Wrapper(_words("-f --format -o --output")),
    "stdbuf": Wrapper(_words("-i -o -e --input --output --error")),
    "nohup": Wrapper(),
    "setsid": Wrapper(),
    "unbuffer": Wrapper(),
    "command": Wrapper(shows=_words("-v -V")),
    "builtin": Wrapper(),
    "exec": Wrapper(_words("-a")),
    "eval": Wrapper(joins=True),
    "sudo": Wrapper(_words("-u --user -g --group -h --host -p --prompt -C -D -R -T")),
    "doas": Wrapper(_words("-u -C")),
    "su": Wrapper(_words("-s --shell -g -G"), texts=_words("-c --command"), positionals=1),
    "chroot": Wrapper(positionals=1),
    "unshare": Wrapper(),
    "busybox": Wrapper(),
    "toybox": Wrapper(),
    "watch": Wrapper(_words("-n --interval"), joins=True),
    "flock": Wrapper(_words("-w --timeout -E"), texts=_words("-c --command"), positionals=1),
    "script": Wrapper(texts=_words("-c --command"), positionals=1),
    "strace": Wrapper(_words("-o -e -p -s -u")),
    "ssh": Wrapper(_words("-p -i -o -l -F -J -L -R -D -b -c -e -m -S -W"), positionals=1, joins=True),
    "xargs": Wrapper(_words(
        "-I -i -n -P -L -l -d -a -E -e -s --replace --max-args --max-procs --max-lines --delimiter --arg-file --eof"
        " --max-chars"
    )),
    "parallel": Wrapper(_words("-j --jobs -a --arg-file")),
    "npx": Wrapper(_words("-p --package")),
    "uvx": Wrapper(_words("--from --with --python")),
    "poetry": Wrapper(then="run"),
    "uv": Wrapper(_words("--with --python --package"), then="run"),
    "pipx": Wrapper(_words("--spec --python"), then="run"),
    "pdm": Wrapper(then="run"),
    "hatch": Wrapper(then="run"),
    "bundle": Wrapper(then="exec"),
}

#: Whatever they are told.
ALWAYS = _words(
    "mkfs mke2fs mkswap wipefs blkdiscard fdisk sfdisk sgdisk gdisk parted cryptsetup lvremove vgremove pvremove"
    " dropdb dropuser"
)

#: Published or deleted for others too: the program's name, then its subcommands or options in front.
NO_WAY_BACK = tuple(tuple(text.split()) for text in (
    "npm publish", "npm unpublish", "npm deprecate", "yarn publish", "yarn npm publish", "pnpm publish", "bun publish",
    "twine upload", "poetry publish", "uv publish", "flit publish", "hatch publish", "pdm publish", "setup.py upload",
    "cargo publish", "cargo yank", "gem push", "gem yank", "docker push", "podman push", "helm push", "mvn deploy",
    "dotnet nuget push", "gh release create", "gh release delete", "gh repo delete", "gh repo archive",
    "glab repo delete", "terraform destroy", "terraform apply", "tofu destroy", "tofu apply", "kubectl delete",
    "helm uninstall", "helm delete", "docker system prune", "docker volume rm", "docker volume prune", "aws s3 rm",
    "aws s3 rb", "rclone delete", "rclone purge", "rclone sync", "rclone deletefile", "redis-cli flushall",
    "redis-cli flushdb", "crontab -r",
))  # fmt: skip

#: Options of `git` in front of the subcommand that take the next word.
GIT_VALUED = _words("-C -c --git-dir --work-tree --namespace --exec-path --super-prefix --config-env")

SQL_CLIENTS = _words(
    "psql mysql mariadb sqlite3 sqlite duckdb sqlcmd clickhouse-client cockroach usql mysqladmin"
)
#: Options of theirs whose next word is a statement.
SQL_STATEMENT = _words("-c -e -q --command --execute --query")

_SQL_NOISE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_SQL_WORD = re.compile(r"[A-Za-z_]+|;")


def sql_destroys(text: str) -> str:
    """The first statement of an SQL text that loses data, as its first words; "" = none does."""
    statement: list[str] = []
    for word in (*(found[0].upper() for found in _SQL_WORD.finditer(_SQL_NOISE.sub(" ", text))), ";"):
        if word != ";":
            statement.append(word)
            continue
        if statement[:1] in (["DROP"], ["TRUNCATE"]):
            return " ".join(statement[:2])
        if statement[:2] == ["DELETE", "FROM"] and "WHERE" not in statement:
            return "DELETE FROM without WHERE"
        if statement[:1] == ["ALTER"] and "DROP" in statement:
            return "ALTER … DROP"
        statement = []
    return ""
