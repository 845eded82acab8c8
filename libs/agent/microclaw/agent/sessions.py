"""Which file a turn's transcript is in: one for the group's conversation, one of its own for each isolated turn."""

from __future__ import annotations

import hashlib
from pathlib import Path

from microclaw.agent.transcript import Transcript
from microclaw.core.worker import Turn

#: Ended isolated turns of which the end is kept, for a host that asks again.
ISOLATED_KEPT_MAX = 64


class Sessions:
    """The session folder of a group."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._group: Transcript | None = None
        #: Files that need no more forgetting.
        self._forgotten: set[Path] = set()

    def open(self, turn: Turn) -> Transcript:
        """The transcript that a turn belongs to."""
        own = self._isolated(turn.run_id)
        # A later turn shows that the host has heard the ends of the earlier ones.
        self._forget(keep=own)
        if turn.session == "isolated":
            self._forgotten.discard(own)
            return Transcript(own)
        if self._group is None:
            self._group = Transcript(self._folder / "group.jsonl")
        return self._group

    def close(self, transcript: Transcript) -> None:
        """The turn has ended."""
        if transcript is not self._group:
            transcript.close()

    def _isolated(self, run_id: str) -> Path:
        name = hashlib.blake2b(run_id.encode(), digest_size=16).hexdigest()
        return self._folder / "isolated" / f"{name}.jsonl"

    def _forget(self, keep: Path) -> None:
        """Forget what other isolated turns said and did; of the newest the end stays known."""
        folder = self._folder / "isolated"
        if not folder.is_dir():
            return
        others = sorted(
            (path for path in folder.glob("*.jsonl") if path != keep), key=lambda path: path.stat().st_mtime_ns
        )
        for path in others[: max(0, len(others) - ISOLATED_KEPT_MAX)]:
            path.unlink()
            self._forgotten.discard(path)
        for path in others[-ISOLATED_KEPT_MAX:]:
            if path in self._forgotten:
                continue
            transcript = Transcript(path)
            if transcript.turns and all(turn.outcome and turn.outcome.is_final for turn in transcript.turns.values()):
                transcript.keep_only([])
                self._forgotten.add(path)
            transcript.close()
