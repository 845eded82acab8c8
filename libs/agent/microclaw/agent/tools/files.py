"""Files of the group's folder: read, write, edit, list. Only regular files, never through a link that leads out."""

from __future__ import annotations

import os
from pathlib import Path

from microclaw.agent.tools.errors import ToolError
from microclaw.agent.tools.schemas import EditFile, ListFiles, ReadFile, WriteFile
from microclaw.agent.workspace import Workspace, read_text

#: Of a larger file only the beginning is read; a larger one can't be edited.
FILE_BYTES_MAX = 2_000_000
#: Entries of one listing.
ENTRIES_MAX = 500


async def read_file(args: ReadFile, workspace: Workspace) -> str:
    """The tool."""
    text, cut = read_text(_existing(workspace.readable(args.path), args.path), FILE_BYTES_MAX)
    lines = text.splitlines(keepends=True)
    part = lines[args.first_line - 1 : args.first_line - 1 + args.lines]
    if len(part) == len(lines):
        return text if not cut else f"{text}\n[only the first {FILE_BYTES_MAX} bytes]"
    shown = "".join(f"{number}\t{line}" for number, line in enumerate(part, start=args.first_line))
    return f"{shown}\n[lines {args.first_line} to {args.first_line - 1 + len(part)} of {len(lines)}]"


async def write_file(args: WriteFile, workspace: Workspace) -> str:
    """The tool."""
    path = workspace.writable(args.path)
    is_new = not path.exists()
    replace_file(path, args.content)
    size = len(args.content.encode())
    return f"{'created' if is_new else 'replaced'} {workspace.shown(path)} ({size} bytes)"


async def edit_file(args: EditFile, workspace: Workspace) -> str:
    """The tool."""
    path = _existing(workspace.writable(args.path), args.path)
    text, cut = read_text(path, FILE_BYTES_MAX)
    if cut:
        raise ToolError(f"{args.path} is larger than {FILE_BYTES_MAX} bytes: edit it with a shell command")
    count = text.count(args.old)
    if count == 0:
        raise ToolError(f"the text to replace is not in {args.path}: read the file and take it exactly")
    if count > 1 and not args.all:
        raise ToolError(f"the text to replace is there {count} times: give more of it, or set all")
    replace_file(path, text.replace(args.old, args.new))
    return f"replaced {count} {'place' if count == 1 else 'places'} in {workspace.shown(path)}"


async def list_files(args: ListFiles, workspace: Workspace) -> str:
    """The tool."""
    folder = workspace.readable(args.path)
    if not folder.is_dir():
        raise ToolError(f"{args.path} is not a folder")
    if Path(args.pattern).is_absolute() or ".." in Path(args.pattern).parts:
        raise ToolError("the pattern must stay inside the folder: no .. and no leading /")
    rows: list[str] = []
    for path in sorted(folder.glob(args.pattern)):
        if len(rows) == ENTRIES_MAX:
            rows.append(f"[only the first {ENTRIES_MAX}: give a narrower pattern]")
            break
        info = path.lstat()
        name = path.relative_to(folder)
        if path.is_symlink():
            rows.append(f"{name} -> {path.readlink()}")
        elif path.is_dir():
            rows.append(f"{name}/")
        else:
            rows.append(f"{name} ({info.st_size} bytes)")
    return "\n".join(rows) or "[nothing there]"


def replace_file(path: Path, content: str) -> None:
    """Write a whole file in one move, keeping its permissions. Raises ToolError, OSError."""
    if path.is_dir():
        raise ToolError(f"{path.name} is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name[:100]}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(content.encode())
    if path.exists():
        fresh.chmod(path.stat().st_mode & 0o7777)
    fresh.replace(path)


def _existing(path: Path, name: str) -> Path:
    if not path.exists():
        raise ToolError(f"there is no file {name}: list the folder to see what is there")
    if path.is_dir():
        raise ToolError(f"{name} is a folder: list it instead")
    return path
