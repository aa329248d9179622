"""A process with an open client may fork: pre-loading servers and task queues do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.client.door import KEY, Door

PROGRAM = """
import multiprocessing, os, sys
from doorward import AsyncClient, Client

client = Client(sys.argv[1], sys.argv[2], channels=2)
view = client.acting_for("acme/alice")
client.whoami(), view.whoami()

def ask():
    for _ in range(4):
        client.whoami(timeout=20), view.whoami(timeout=20)
"""

OS_FORK = """
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        ask()
        os._exit(7)
    children.append(child)
ask()
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert codes == [7, 7, 7], codes
ask()
"""

MULTIPROCESSING = """
forked = multiprocessing.get_context("fork")
children = [forked.Process(target=ask) for _ in range(3)]
for child in children: child.start()
ask()
for child in children: child.join()
assert [child.exitcode for child in children] == [0, 0, 0]
ask()
"""

A_FORK_OF_A_FORK = """
child = os.fork()
if child == 0:
    ask()
    grandchild = os.fork()
    if grandchild == 0:
        ask()
        client.close()
        os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
    ask()
    os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
ask()
"""


AN_OPEN_ASYNC_CLIENT = """
import asyncio
another = AsyncClient(sys.argv[1], sys.argv[2])
asyncio.run(another.whoami())
child = os.fork()
if child == 0:
    for refused in (client.whoami, lambda: asyncio.run(another.whoami()), Client(sys.argv[1], sys.argv[2]).whoami):
        try: refused()
        except RuntimeError as error: assert "does not survive a fork" in str(error)
        else: os._exit(1)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
asyncio.run(another.whoami())
asyncio.run(another.close())
"""

A_CLOSED_ASYNC_CLIENT = """
import asyncio
async def ask_async():
    async with AsyncClient(sys.argv[1], sys.argv[2]) as another:
        await another.whoami(timeout=20)
asyncio.run(ask_async())
child = os.fork()
if child == 0:
    ask()
    asyncio.run(ask_async())
    os._exit(7)
asyncio.run(ask_async())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
ask()
"""


def run(program: str, door: Door) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, door.target, KEY], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("program", "processes"), [(OS_FORK, 4), (MULTIPROCESSING, 4), (A_FORK_OF_A_FORK, 3)], ids=["os", "mp", "twice"]
)
def test_children_of_an_open_client_ask_on_connections_of_their_own(program: str, processes: int, door: Door) -> None:
    run(program, door)
    assert len({asked.peer for asked in door.asked}) == 2 * processes


@pytest.mark.parametrize("program", [AN_OPEN_ASYNC_CLIENT, A_CLOSED_ASYNC_CLIENT], ids=["open", "closed"])
def test_an_async_client_is_closed_before_a_fork(program: str, door: Door) -> None:
    run(program, door)
