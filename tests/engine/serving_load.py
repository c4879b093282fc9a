"""Many clients of every kind at once, each of which knows what it has to be answered."""

import asyncio
import collections
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A request: what is sent, in how many parts with which pause, and what is right."""

    name: str
    body: bytes
    content_type: str
    statuses: tuple[int, ...]
    check: object = None
    parts: int = 1
    pause: float = 0.0
    headers: str = ""


@dataclass
class Load:
    """What happened: answers by case and status, and what was wrong."""

    answers: collections.Counter = field(default_factory=collections.Counter)
    wrong: list = field(default_factory=list)
    busy: int = 0
    seconds: list = field(default_factory=list)
    memory: list = field(default_factory=list)


async def send(address, case, on_sent=lambda: None):
    """(status, headers, body) of the answer to a case, on a connection of its own.

    It is kept alive: a server that closes it while something is coming makes the kernel throw
    away what the client has not read yet.
    """
    reader, writer = await asyncio.open_connection(*address)
    try:
        head = (
            f"POST /predict HTTP/1.1\r\nHost: test\r\n{case.headers}"
            f"Content-Type: {case.content_type}\r\nContent-Length: {len(case.body)}\r\n\r\n"
        )
        writer.write(head.encode())
        step = max(1, -(-len(case.body) // case.parts))
        answer = asyncio.ensure_future(read_answer(reader))
        for start in range(0, len(case.body), step):
            writer.write(case.body[start : start + step])
            if case.pause:
                await asyncio.wait({answer}, timeout=case.pause)
                if answer.done():
                    break  # refused before everything was sent
        on_sent()
        return await answer
    finally:
        writer.close()


async def read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = re.search(r"\ncontent-length: (\d+)", head)
    body = await reader.readexactly(int(length.group(1))) if length else await reader.read()
    return int(head[9:12]), head, body


async def client(address, cases, load, end, seed):
    """Sends one case after the other until the end."""
    chance = random.Random(seed)
    while time.monotonic() < end:
        case = chance.choice(cases)
        start = time.monotonic()
        try:
            status, head, body = await send(address, case)
        except Exception as error:
            load.wrong.append((case.name, repr(error)))
            continue
        if status == 503 and "retry-after" in head:
            load.busy += 1
            await asyncio.sleep(0.5)
            continue
        load.answers[case.name, status] += 1
        if status == 200:
            load.seconds.append(time.monotonic() - start)
        problem = None if status in case.statuses else body[:200]
        if problem is None and case.check is not None and status == 200:
            problem = case.check(body)
        if problem:
            load.wrong.append((case.name, status, problem))


async def watch_memory(address, load, end):
    while time.monotonic() < end:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        found = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
        load.memory.append(float(found.group(1)))
        await asyncio.sleep(0.5)


async def put_load(address, cases, clients, seconds):
    load, end = Load(), time.monotonic() + seconds
    await asyncio.gather(
        watch_memory(address, load, end),
        *(client(address, cases, load, end, seed) for seed in range(clients)),
    )
    return load


async def stop_in_flight(address, case, count, stop):
    """Statuses of requests that have been sent when the server is told to stop."""
    sent = []

    async def one():
        return (await send(address, case, lambda: sent.append(1)))[0]

    waiting = [asyncio.ensure_future(one()) for _ in range(count)]
    while len(sent) < count:
        await asyncio.sleep(0.001)
    stop()
    return await asyncio.gather(*waiting)


@contextlib.contextmanager
def server_process(*command):
    """(process, address) of a server; killed if it is still there at the end."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"http://(\S+):(\d+)", line)
        if found is None:
            raise RuntimeError(process.communicate()[1])
        yield process, (found.group(1), int(found.group(2)))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def load_and_stop(command, cases, last, *, clients, seconds):
    """(what happened, statuses of the requests in flight at SIGTERM, exit code, its output)."""
    with server_process(*command) as (process, address):
        load = asyncio.run(put_load(address, cases, clients, seconds))
        statuses = asyncio.run(
            stop_in_flight(address, last, 20, lambda: process.send_signal(signal.SIGTERM))
        )
        output, errors = process.communicate(timeout=60)
        return load, statuses, process.returncode, output, errors


def instances_of(body):
    return json.loads(body)["instances"]
