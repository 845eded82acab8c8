"""What the broker does beside the traffic: retention, the index over places, checkpoints; dead letters, groups and
compaction on demand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from microclaw.bus.blobs import BlobStore
from microclaw.bus.checkpoints import Checkpoints
from microclaw.bus.group import Group
from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NoSpace, Parked
from microclaw.bus.room import Room
from microclaw.bus.settling import save
from microclaw.bus.storing import UNFOLDED_MAX, Storage

#: Expired messages deleted in one turn: bounds how long a publisher waits behind it.
EXPIRE_ROWS_MAX = 200
#: Blobs looked at in one turn, whether a message still needs them.
EXPIRE_BLOBS_MAX = 200


class Upkeep:
    """Each call is a transaction of its own, between two turns."""

    def __init__(
        self, journal: Journal, storage: Storage, groups: dict[str, Group], room: Room, blobs: BlobStore | None, *,
        wall_ms: Callable[[], int], retention_ms: int,
    ) -> None:
        self._journal = journal
        self._storage = storage
        self._groups = groups
        self._room = room
        self._blobs = blobs
        self._blobs_left: Iterator[str] = blobs.all() if blobs is not None else iter(())
        self._wall_ms = wall_ms
        self._retention_ms = retention_ms
        #: None = SQLite does it, inside a commit.
        self.checkpoints: Checkpoints | None = None

    def expire(self) -> int:
        """Delete some of what is older than the retention and done with. Call it now and then; returns how many."""
        self.tidy(now=True)
        floors = [group.floor for group in self._groups.values()]
        floor = min(floors, default=self._storage.last_offset)
        try:
            self._journal.begin()
            # What was set aside since the last turn is below the floor, and kept for what stands in the journal alone.
            now_ms = self._wall_ms()
            saved = save(self._journal, self._storage, self._groups.values(), now_ms, tell=not self._room.none)
            gone = self._journal.expire(now_ms - self._retention_ms, floor, EXPIRE_ROWS_MAX)
            self._journal.commit()
        except NoSpace:
            self._room.full()
            self._storage.reload()
            return 0
        for group, durable in saved:
            group.saved(durable)
        if self._blobs is not None and not gone:
            self._delete_blobs(self._blobs)
        return gone

    def _delete_blobs(self, blobs: BlobStore) -> None:
        """Look at some, where the last call ended."""
        looked = 0
        for handle in itertools.islice(self._blobs_left, EXPIRE_BLOBS_MAX):
            looked += 1
            if blobs.is_old(handle, self._wall_ms() / 1000) and not self._journal.refers(handle):
                blobs.delete(handle)
        if looked < EXPIRE_BLOBS_MAX:
            self._blobs_left = blobs.all()

    def tidy(self, *, now: bool = False) -> bool:
        """Do a part of what nobody waits for, when there is enough of it (or `now`), or it is begun. Call it when all
        is answered. True = there is more of it."""
        if self.checkpoints is not None:
            self.checkpoints.turn()
        if not self._storage.folding and self._storage.unfolded < (1 if now else UNFOLDED_MAX):
            return False
        return self.fold() and self._storage.folding

    def fold(self, session: int = 0) -> bool:
        """Bring some more into the index over places, of this session or (0) of all. False = the disk is full."""
        try:
            self._journal.begin()
            done = self._storage.fold(session)
            self._journal.commit()
        except NoSpace:
            self._room.full()
            return False
        self._storage.folded(done)
        return True

    def compact(self) -> None:
        """Give unused space back to the file system; nothing else can be written meanwhile."""
        if self.checkpoints is not None:
            self.checkpoints.rest()
        self._journal.compact()

    def fold_all(self) -> None:
        """Bring the index over places up to date, however long it takes (for the owner's questions)."""
        while self.tidy(now=True):
            pass

    def requeue(self, group: Group, offset: int) -> bool:
        """Deliver a dead letter again, as if never delivered. False = there is none."""
        row = self._journal.row(offset)
        self._journal.begin()
        if not self._journal.exhume(group.no, offset) or row is None:
            self._journal.commit()
            return False
        self._journal.park(group.no, Parked(offset, 0, 0, "", ""))
        self._journal.commit()
        group.revive(offset, row.session)
        return True

    def drop_dead(self, group: Group, offset: int) -> bool:
        """Forget a dead letter. False = there is none."""
        self._journal.begin()
        found = self._journal.exhume(group.no, offset)
        # Settled it is, and stays: beyond the floor that is said by itself.
        self._journal.commit()
        return found

    def drop_group(self, group: Group) -> None:
        """Forget a consumer group that nobody uses."""
        self._journal.begin()
        self._journal.drop_group(group.no)
        self._journal.commit()
        del self._groups[group.name]
