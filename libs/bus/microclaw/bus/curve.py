"""Keys for the bus across machines: CurveZMQ (RFC 26) and its authentication (ZAP, RFC 27).

Over `tcp://` the broker knows a peer by its long-term public key, and the key has one name. There is no tcp without it.
The broker's pair and its peers' public keys are files in a folder of the broker's; what a peer needs (its pair, the
broker's public key) is one small file that the owner carries there (`microclaw bus key add NAME FILE`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq
from zmq.utils import z85

from microclaw.bus.errors import BusError

#: Where libzmq asks whether a key is known.
ZAP_ADDRESS = "inproc://zeromq.zap.01"


class KeyFileError(BusError):
    """The key file can't be used."""

    exit_code = 2


class PeerKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a peer carries: a name, its own pair, the broker's public key; all keys in Z85 (RFC 32)."""

    name: str
    public: str
    secret: str
    broker: str

    @classmethod
    def load(cls, path: Path) -> PeerKeys:
        """From its file. Raises KeyFileError."""
        try:
            if path.stat().st_mode & 0o077:
                raise KeyFileError(f"{path} can be read by others: chmod 600 {path}")
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise KeyFileError(f"{path}: {error}; `microclaw bus key add` on the broker's machine makes one") from error

    def put_on(self, socket: zmq.Socket[bytes]) -> None:
        """Make a client's socket use them."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret.encode())
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.broker.encode())


@dataclass(frozen=True)
class KeyRing:
    """The broker's folder of keys: its own pair, and `NAME.public` for each peer."""

    folder: Path

    def pair(self) -> tuple[bytes, bytes]:
        """The broker's (public, secret) key, made at the first use."""
        secret_file = self.folder / "broker.secret"
        if not secret_file.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            public, secret = zmq.curve_keypair()
            _write(self.folder / "broker.public", public)
            _write(secret_file, secret)
        return (self.folder / "broker.public").read_bytes(), secret_file.read_bytes()

    def add(self, name: str) -> PeerKeys:
        """A new pair for this peer; only its public half stays here. An older one of the name is void at once."""
        broker, _ = self.pair()
        public, secret = zmq.curve_keypair()
        _write(self.folder / f"{name}.public", public)
        return PeerKeys(name=name, public=public.decode(), secret=secret.decode(), broker=broker.decode())

    def remove(self, name: str) -> bool:
        """This peer is known no more; the broker refuses its next greeting. False = it was not known."""
        path = self.folder / f"{name}.public"
        if name == "broker" or not path.exists():
            return False
        path.unlink()
        return True

    def names(self) -> list[str]:
        """The peers."""
        return sorted(path.stem for path in self.folder.glob("*.public") if path.stem != "broker")

    def name_of(self, key: bytes) -> str | None:
        """Whose public key (32 bytes) this is, None = nobody's. Read anew each time: a removed key is void at once."""
        text = z85.encode(key)
        return next((name for name in self.names() if (self.folder / f"{name}.public").read_bytes() == text), None)


class Authenticator:
    """Answers libzmq's question, connection by connection."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], ring: KeyRing) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.bind(ZAP_ADDRESS)
        self._ring = ring

    def answer(self) -> None:
        """One question: version, request id, domain, address, identity, mechanism, credentials."""
        version, request, _domain, _address, _identity, mechanism, *credentials = self.socket.recv_multipart()
        name = None
        if mechanism == b"CURVE" and len(credentials) == 1:
            name = self._ring.name_of(credentials[0])
        if name is None:
            answer = [version, request, b"400", b"no such key", b"", b""]
        else:
            answer = [version, request, b"200", b"OK", name.encode(), b""]
        self.socket.send_multipart(answer)


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
