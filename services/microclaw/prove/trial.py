"""A trial: the rounds of a plan on a running mesh, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from microclaw.core.home import Home
from microclaw.prove import audit
from microclaw.prove.account import Account, total
from microclaw.prove.acts import Acts, NoVictim
from microclaw.prove.mesh_run import MeshRun
from microclaw.prove.plan import Round
from microclaw.prove.traffic import Traffic

#: From an act (or the end of one that lasts) to the first answer to a message that was said after it.
RECOVERY_S_MAX = 60.0
#: Rounds between two accounts: the traffic pauses, and all that is under way must end.
ACCOUNT_EVERY = 20
#: While waiting for that something must be seen to happen every so often, or what lacks is lost: longer than the
#: queue's longest pause between two tries (80 s).
PATIENCE_S = 120.0
#: Before an account, for a double to come.
LINGER_S = 1.0
POLL_S = 0.02

Show = Callable[[str], None]


@dataclass(slots=True)
class _Recovery:
    harmed: float
    took_s: float | None = None


@dataclass
class Result:
    """What came of a trial."""

    #: Rounds that were done.
    rounds: int = 0
    #: Everything together, and the messages alone.
    account: Account = field(default_factory=Account)
    messages: Account = field(default_factory=Account)
    reminders: Account = field(default_factory=Account)
    #: What each recovery took, s.
    recoveries_s: list[float] = field(default_factory=list)
    slowest_answer_s: float = 0.0
    slowest_answer: str = ""
    #: Kind of act → how often it was done; what could not be done, with the reason.
    acts: Counter[str] = field(default_factory=Counter)
    not_done: Counter[str] = field(default_factory=Counter)
    #: Notices in the chats: runs that were given up.
    notices: list[str] = field(default_factory=list)
    #: Whatever else is wrong, one line each.
    faults: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0

    @property
    def well(self) -> bool:
        return self.account.well and not self.faults

    @property
    def recovery_max_s(self) -> float:
        return max(self.recoveries_s, default=0.0)


class Trial:
    """One trial. `show` is told what happens, a line at a time."""

    def __init__(
        self, mesh: MeshRun, seed: int, rounds: Sequence[Round], show: Show, *, patience_s: float = PATIENCE_S
    ) -> None:
        self.result = Result()
        self._mesh = mesh
        self._rounds = rounds
        self._show = show
        self._patience_s = patience_s
        self._acts = Acts(mesh)
        self._traffic = Traffic(mesh, seed, self._acts.now_ms)
        self._traffic.on_answer = self._on_answer
        self._recovering: list[_Recovery] = []

    async def run(self) -> Result:
        """Start the mesh, do the rounds, end it. The files stay."""
        begin = time.monotonic()
        result = self.result
        self._mesh.start()
        try:
            await self._mesh.ready()
            await self._traffic.start()
            await self._all_rounds()
            if not result.faults:
                result.faults += await audit.of_running(self._mesh)
        finally:
            await self._traffic.stop()
            await self._mesh.close()
            left = await asyncio.to_thread(self._mesh.end)
        result.faults += [f"process {pid} was left behind: {command}" for pid, command in left.items()]
        result.faults += audit.of_stopped(self._mesh.home)
        self._reckon(self._mesh.home)
        result.errors = audit.logged_errors(self._mesh.home)
        result.took_s = time.monotonic() - begin
        return result

    async def _all_rounds(self) -> None:
        for turn in self._rounds:
            await self._round(turn)
            last = turn.number == len(self._rounds)
            if last or turn.number % ACCOUNT_EVERY == 0:
                await self._account(turn.number)
            if last or self.result.faults or not self.result.account.well:
                return
            self._traffic.resume()

    async def _round(self, turn: Round) -> None:
        result = self.result
        await asyncio.sleep(turn.pause_ms / 1000)
        result.rounds = turn.number
        where = f"round {turn.number} of {len(self._rounds)}: {turn.act}"
        self._show(f"{where} …")
        self._traffic.during = f"round {turn.number}, {turn.act}"
        try:
            recovery = _Recovery(await self._acts.do(turn.act))
        except NoVictim as why:
            result.not_done[f"{turn.act.kind}: {why}"] += 1
            return
        result.acts[turn.act.kind] += 1
        self._recovering.append(recovery)
        if turn.overlapped:
            self._show(f"{where}; the next at once")
            return
        while recovery.took_s is None:
            self._check_traffic()
            if time.monotonic() - recovery.harmed > RECOVERY_S_MAX:
                result.faults.append(f"{where}: nothing was answered for {RECOVERY_S_MAX:.0f} s after it")
            if result.faults:
                return
            await asyncio.sleep(POLL_S)
        self._show(f"{where}; answers again after {recovery.took_s:.1f} s, {self._traffic.accepted} messages so far")

    async def _account(self, number: int) -> None:
        self._show(f"round {number} of {len(self._rounds)}: waiting for all answers …")
        self._traffic.pause()
        self._acts.catch_up()
        seen, since = self._traffic.progress(), time.monotonic()
        while not self._traffic.quiet() and time.monotonic() - since < self._patience_s:
            self._check_traffic()
            if self.result.faults:
                return
            await asyncio.sleep(POLL_S)
            await self._traffic.nudge()
            if (now := self._traffic.progress()) != seen:
                seen, since = now, time.monotonic()
        await asyncio.sleep(LINGER_S)
        self._reckon(self._mesh.home)
        account = self.result.account
        if account.lost:
            self.result.faults += [f"lost: {name}" for name in self._traffic.lost()]
        self._show(
            f"round {number} of {len(self._rounds)}: {account.accepted} accepted, {account.lost} lost,"
            f" {account.doubled} doubled, {account.reordered} reordered"
        )

    def _check_traffic(self) -> None:
        if (error := self._traffic.failed()) is not None and not self.result.faults:
            self.result.faults.append(f"the traffic ended: {type(error).__name__}: {error}")

    def _reckon(self, home: Home) -> None:
        streams = self._traffic.streams(audit.done_by_bash(home))
        result = self.result
        result.account = total(streams)
        result.messages = total({name: one for name, one in streams.items() if name.endswith("answers")})
        result.reminders = total({name: one for name, one in streams.items() if name.endswith("reminders")})
        result.slowest_answer_s, result.slowest_answer = self._traffic.slowest_s, self._traffic.slowest
        result.notices = [text for group in self._traffic.groups for text in group.notices]
        bad = [f"{name}: {one}" for name, one in streams.items() if not one.well]
        bad += [f"{group.chat}: {group.gaps} gaps in line numbers" for group in self._traffic.groups if group.gaps]
        result.faults += [line for line in bad if line not in result.faults]

    def _on_answer(self, said_at: float) -> None:
        now = time.monotonic()
        for recovery in list(self._recovering):
            if recovery.harmed <= said_at:
                recovery.took_s = now - recovery.harmed
                self.result.recoveries_s.append(recovery.took_s)
                self._recovering.remove(recovery)
