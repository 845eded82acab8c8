"""Whose the writable folders of a run are."""

from __future__ import annotations

import os
from pathlib import Path


def hand_over(folder: Path, uid: int, gid: int) -> None:
    """Make the folder and all in it belong to `uid:gid`, when we are root and it belongs to somebody else.

    A run without capabilities can't write what another user owns, root's own files included; and the
    backends' users differ. Nothing is followed: a link that a run left changes hands itself, never what it
    points to.
    """
    if os.geteuid() != 0 or folder.lstat().st_uid == uid:
        return
    for _, folders, files, here in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=here, follow_symlinks=False)
    # Last, so that a walk that was cut short is done again.
    os.chown(folder, uid, gid, follow_symlinks=False)
