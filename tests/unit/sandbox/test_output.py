"""What a sandbox writes, in bounds."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from microclaw.core.worker import LINE_BYTES_MAX
from microclaw.sandbox.output import BUFFER_BYTES_MAX, BUFFER_LINES_MAX, STDERR_TAIL_BYTES, Output


async def everything(output: Output) -> list[bytes]:
    found = []
    while (line := await output.receive()) is not None:
        found.append(line)
    return found


@given(st.lists(st.binary(max_size=50), max_size=30))
def test_lines_come_out_as_they_went_in(chunks):
    async def scene() -> list[bytes]:
        output = Output(1 << 20, lambda: None)
        for chunk in chunks:
            await output.stdout(chunk)
        output.end()
        return await everything(output)

    lines = asyncio.run(scene())
    assert b"".join(lines) == b"".join(chunks)
    assert all(line.endswith(b"\n") for line in lines[:-1])
    assert all(line.count(b"\n") <= 1 for line in lines)


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=2000)), max_size=60))
def test_no_more_than_the_limit_comes_out(pieces):
    limit, told = 5000, []

    async def scene() -> tuple[Output, list[bytes]]:
        output = Output(limit, lambda: told.append(1))
        for is_error, chunk in pieces:
            if is_error:
                output.stderr(chunk)
            else:
                await output.stdout(chunk)
        output.end()
        return output, await everything(output)

    output, lines = asyncio.run(scene())
    total = sum(len(chunk) for is_error, chunk in pieces if not is_error)
    if total > limit:
        assert output.cut
    assert len(told) == output.cut
    errors = sum(len(chunk) for is_error, chunk in pieces if is_error)
    assert not output.errors_cut or errors > limit
    assert sum(map(len, lines)) <= limit


async def test_who_writes_waits_until_somebody_reads():
    output = Output(1 << 30, lambda: None)
    written = 0

    async def write() -> None:
        nonlocal written
        for _ in range(100):
            await output.stdout(b"x" * 65535 + b"\n")
            written += 1
        output.end()

    writer = asyncio.create_task(write())
    await asyncio.sleep(0)
    while not writer.done() and written < BUFFER_BYTES_MAX >> 16:
        await asyncio.sleep(0)
    assert written <= (BUFFER_BYTES_MAX >> 16) + 1
    assert not writer.done()
    assert len(await everything(output)) == 100
    await writer


async def test_many_short_lines_wait_too():
    output = Output(1 << 30, lambda: None)
    writer = asyncio.create_task(output.stdout(b"\n" * (BUFFER_LINES_MAX + 1)))
    await asyncio.sleep(0)
    assert not writer.done()
    assert await output.receive() == b"\n"
    await asyncio.wait_for(writer, 5)


async def test_let_go_frees_the_writer_and_throws_away():
    output = Output(1 << 30, lambda: None)
    writer = asyncio.create_task(output.stdout(b"x\n" * (BUFFER_BYTES_MAX // 2 + 1)))
    await asyncio.sleep(0)
    assert not writer.done()
    output.let_go()
    await asyncio.wait_for(writer, 5)
    for _ in range(100):
        await asyncio.wait_for(output.stdout(b"y" * 65536), 5)
    output.end()
    assert not any(b"y" in line for line in await everything(output))


async def test_a_line_that_is_too_long_is_cut():
    told: list[int] = []
    output = Output(1 << 30, lambda: told.append(1))
    await output.stdout(b"fine\n")
    for _ in range(LINE_BYTES_MAX // 65536 + 1):
        await output.stdout(b"x" * 65536)
    output.end()
    assert output.cut
    assert told == [1]
    assert await everything(output) == [b"fine\n"]


async def test_the_longest_line_is_not_cut():
    output = Output(1 << 30, lambda: None)
    await output.stdout(b"x" * (LINE_BYTES_MAX - 1) + b"\n")
    output.end()
    assert not output.cut
    assert [len(line) for line in await everything(output)] == [LINE_BYTES_MAX]


def test_the_end_of_standard_error_is_kept():
    output = Output(1 << 30, lambda: None)
    for number in range(3000):
        output.stderr(f"{number}\n".encode())
    assert output.stderr_tail.endswith("2999\n")
    assert len(output.stderr_tail) <= STDERR_TAIL_BYTES
