"""What the machine allows at best, measured beside the engines: one sync, the journal alone, one ZeroMQ echo."""

from __future__ import annotations

import itertools
import os
import threading
import time
from array import array
from pathlib import Path

import zmq
from bench.bus_load import BODY_BYTES, percentile

from microclaw.bus.journal import Journal
from microclaw.bus.journal_schema import NewRow
from microclaw.core.ids import new_id

#: What a commit of one message writes, about: a page.
PAGE_BYTES = 4096
#: Preallocated file that is overwritten in turn, bytes.
FILE_BYTES = 8 << 20


def fdatasync_p50_us(directory: Path, seconds: float) -> float:
    """Write 4 KiB into a preallocated file and fdatasync: median, us."""
    took: array[float] = array("d")
    fd = os.open(directory / "raw", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, bytes(FILE_BYTES), 0)
        os.fsync(fd)
        page = os.urandom(PAGE_BYTES)
        until = time.monotonic() + seconds
        for place in itertools.cycle(range(0, FILE_BYTES, PAGE_BYTES)):
            begun = time.monotonic()
            if begun >= until:
                break
            os.pwrite(fd, page, place)
            os.fdatasync(fd)
            took.append(time.monotonic() - begun)
    finally:
        os.close(fd)
    return percentile(took, 0.5) * 1e6


def append_p50_us(directory: Path, seconds: float) -> float:
    """Append a message's bytes to a file and fsync: median, us. On most file systems a file that grows costs more to
    sync than one that is overwritten; an engine that syncs each message by itself is no faster than this."""
    took: array[float] = array("d")
    path = directory / "growing"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        body = bytes(BODY_BYTES)
        until = time.monotonic() + seconds
        while (begun := time.monotonic()) < until:
            os.write(fd, body)
            os.fsync(fd)
            took.append(time.monotonic() - begun)
    finally:
        os.close(fd)
        path.unlink()
    return percentile(took, 0.5) * 1e6


def rows(first: int, number: int, body: bytes, sessions: int = 1_000) -> list[NewRow]:
    """Rows as the engine would place them, over so many sessions."""
    now_ms = time.time_ns() // 1_000_000
    return [
        NewRow(new_id(now_ms), body, "", "", offset, 1 + offset % sessions, 1 + offset // sessions, 1)
        for offset in range(first, first + number)
    ]


def store_only_rate(directory: Path, seconds: float, batch: int) -> float:
    """Insert and commit in batches through `Journal`, nothing else: rows a second."""
    path = directory / f"store-{batch}.db"
    journal = Journal(path)
    try:
        body = bytes(BODY_BYTES + 120)  # the envelope around it included
        stored = 0
        begun = time.monotonic()
        while (now := time.monotonic()) - begun < seconds:
            journal.begin()
            journal.insert(rows(stored + 1, batch, body), int(now * 1000))
            journal.commit()
            stored += batch
        return stored / (time.monotonic() - begun)
    finally:
        journal.close()
        for file in path.parent.glob(f"{path.stem}.*"):
            file.unlink()


def zmq_echo_p50_us(directory: Path, seconds: float) -> float:
    """A DEALER and a ROUTER thread over ipc, 200 bytes there and back: median, us."""
    context = zmq.Context()
    address = f"ipc://{directory}/echo.sock"
    router = context.socket(zmq.ROUTER)
    router.bind(address)

    def echo() -> None:
        while True:
            frames = router.recv_multipart()
            if len(frames) == 2 and not frames[1]:
                return
            router.send_multipart(frames)

    thread = threading.Thread(target=echo)
    thread.start()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(address)
    took: array[float] = array("d")
    body = bytes(BODY_BYTES)
    until = time.monotonic() + seconds
    while (begun := time.monotonic()) < until:
        dealer.send(body)
        dealer.recv()
        took.append(time.monotonic() - begun)
    dealer.send(b"")
    thread.join()
    dealer.close()
    router.close()
    context.term()
    return percentile(took, 0.5) * 1e6
