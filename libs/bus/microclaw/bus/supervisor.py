"""Talking to supervisord over its Unix socket (XML-RPC), for the CLI, `watch`, the router's `/restart` and tests."""

from __future__ import annotations

import http.client
import signal
import socket
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microclaw.core.errors import MicroclawError, NotRunningError, UnhealthyError, UsageError

#: A call that only asks. Starting and stopping wait for the service and take longer.
ASK_TIMEOUT_S = 10.0
#: `stopwaitsecs` and `startsecs` of every service fit into this.
CHANGE_TIMEOUT_S = 40.0

_SHUTTING_DOWN, _BAD_NAME, _SPAWN_ERROR, _ABNORMAL, _ALREADY_STARTED, _NOT_RUNNING = 6, 10, 50, 40, 60, 70


@dataclass(frozen=True, slots=True)
class Process:
    """A program as supervisord sees it."""

    name: str
    #: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL.
    state: str
    #: 0 = there is none.
    pid: int
    #: Since when it is in this state, as near as supervisord knows: Unix seconds, 0 = never started.
    since_s: int
    #: Of the last process that ended; -1 = killed by a signal.
    exit_status: int
    #: Why it could not be started, "" = it could.
    error: str


class Supervisor:
    """One supervisord. Every method raises `NotRunningError` when it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pid(self) -> int:
        """supervisord's process id."""
        return int(self._call("supervisor.getPID"))

    def processes(self) -> list[Process]:
        """All programs, in the order of the configuration's priorities."""
        return [
            Process(
                name=str(row["name"]), state=str(row["statename"]), pid=int(row["pid"]),
                since_s=int(row["start"] if row["pid"] else row["stop"] or row["start"]),
                exit_status=int(row["exitstatus"]), error=str(row["spawnerr"]),
            )
            for row in self._call("supervisor.getAllProcessInfo")
        ]

    def start(self, name: str, *, wait: bool = True) -> bool:
        """Start a program and (`wait`) wait until supervisord holds it for started. False = it ran already.

        :raises UsageError: there is no such program. :raises UnhealthyError: it did not start.
        """
        try:
            self._call("supervisor.startProcess", name, wait, timeout_s=CHANGE_TIMEOUT_S)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _ALREADY_STARTED:
                return False
            raise self._refusal(name, fault) from fault
        return True

    def stop(self, name: str) -> bool:
        """Stop a program and wait for its end. False = it did not run.

        :raises UsageError: there is no such program.
        """
        try:
            self._call("supervisor.stopProcess", name, True, timeout_s=CHANGE_TIMEOUT_S)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _NOT_RUNNING:
                return False
            raise self._refusal(name, fault) from fault
        return True

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a program's process a signal. False = it does not run. :raises UsageError: there is no such program."""
        try:
            self._call("supervisor.signalProcess", name, str(int(number)))
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _NOT_RUNNING:
                return False
            raise self._refusal(name, fault) from fault
        return True

    def shutdown(self) -> None:
        """Stop everything, supervisord last. Returns at once."""
        self._call("supervisor.shutdown")

    def _call(self, method: str, *arguments: object, timeout_s: float = ASK_TIMEOUT_S) -> Any:
        try:
            with xmlrpc.client.ServerProxy(
                "http://supervisord/RPC2", transport=_UnixTransport(self._path, timeout_s)
            ) as server:
                return getattr(server, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != _SHUTTING_DOWN:
                raise
            raise NotRunningError("MicroClaw is just stopping: wait a moment, then `microclaw up`") from fault
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunningError("MicroClaw is not running: start it with `microclaw up`") from error
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise UnhealthyError(
                f"supervisord does not answer at {self._path} ({error}): see `microclaw logs supervisord`"
            ) from error

    def _refusal(self, name: str, fault: xmlrpc.client.Fault) -> MicroclawError:
        if fault.faultCode == _BAD_NAME:
            known = ", ".join(sorted(process.name for process in self.processes()))
            return UsageError(f"there is no service {name!r}; there are: {known}")
        if fault.faultCode in (_SPAWN_ERROR, _ABNORMAL):
            return UnhealthyError(f"{name} does not start; its log says why: `microclaw logs {name}`")
        return UnhealthyError(f"supervisord refused to change {name}: {fault.faultString}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("supervisord", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, _host: object) -> http.client.HTTPConnection:
        return _UnixConnection(self._path, self._timeout_s)
