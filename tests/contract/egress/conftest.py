"""Egress's parts over real sockets and a real database; only the world outside is ours."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from tests.contract.egress.authority import Authority, make_authority

from microclaw.core.home import Home, home_from
from microclaw.store.migrate import upgrade

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
StartUpstream = Callable[..., Awaitable[int]]


@pytest.fixture
def home() -> Iterator[Home]:
    # Short: a Unix socket's path has at most 103 bytes.
    root = tempfile.mkdtemp(prefix="mc-eg-", dir="/tmp")
    made = home_from({"MICROCLAW_HOME": root})
    upgrade(made)
    yield made
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
async def upstream() -> AsyncIterator[StartUpstream]:
    """Start servers outside: `port = await upstream(handler)`; all end with the test."""
    servers: list[asyncio.Server] = []

    async def start(handler: Handler, *, tls: ssl.SSLContext | None = None) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        servers.append(server)
        return server.sockets[0].getsockname()[1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs for the names that tests use."""
    return make_authority(tmp_path_factory.mktemp("ca"), ("good.example", "other.example", "localhost"))
