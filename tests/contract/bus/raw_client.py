"""A client of the bus without our client's manners, for saying what that never would."""

from __future__ import annotations

import os

import zmq
from tests.broker_process import DEADLINE_S

from microclaw.bus.wire import PROTOCOL, Op, decode_frame, encode_frame


class Raw:
    """A client without manners."""

    def __init__(self, address: str, name: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        self.send([[Op.HELLO, PROTOCOL, name, os.urandom(8)]])
        assert self.receive()[0][0] == Op.HELLO

    def send(self, operations: list[list[object]], flags: int = 0) -> None:
        self.socket.send(encode_frame(operations), flags)

    def receive(self) -> list[list[object]]:
        assert self.socket.poll(DEADLINE_S * 1000), "the broker says nothing"
        return decode_frame(self.socket.recv())

    def close(self) -> None:
        self.socket.close()
