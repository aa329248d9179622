"""Idle Lease streams: each says every half second that it is there, and nothing changes. A process of its own.

Prints "ready" once every stream has had its first answer, and goes on until it is terminated. A stream that fails ends
the process.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import grpc  # noqa: E402
import uvloop  # noqa: E402

from doorward.v1 import authz_pb2, authz_pb2_grpc  # noqa: E402
from tests.bench.world import KEYSPACE, ORGANIZATION  # noqa: E402

EVERY = 0.5
"""Seconds between two pings of a stream: half of max_staleness, as the client cache does it."""
PER_CONNECTION = 50


async def keep(channel: grpc.aio.Channel, key: str, after: float, opened: asyncio.Event) -> None:
    """Keep one stream alive for good, from *after* seconds on."""
    await asyncio.sleep(after)
    stream = authz_pb2_grpc.AuthzServiceStub(channel).Lease(metadata=(("authorization", f"Bearer {key}"),))
    sequence = 0
    while True:
        sequence += 1
        ping = authz_pb2.LeaseRequest.Ping(sequence=sequence)
        await stream.write(authz_pb2.LeaseRequest(ping=ping, organization=ORGANIZATION, keyspaces=[KEYSPACE]))
        while True:
            answer = await stream.read()
            if not isinstance(answer, authz_pb2.LeaseResponse):
                raise SystemExit(f"a stream ended: {await stream.code()} {await stream.details()}")
            if answer.HasField("pong") and answer.pong.sequence == sequence:
                break
        opened.set()
        await asyncio.sleep(EVERY)


async def run(target: str, key: str, streams: int) -> None:
    """Open *streams* streams, evenly over two seconds, and keep them."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(-(-streams // PER_CONNECTION))]
    opened = [asyncio.Event() for _ in range(streams)]
    async with asyncio.TaskGroup() as group:
        for number, event in enumerate(opened):
            group.create_task(keep(channels[number % len(channels)], key, 2 * number / streams, event))
        for event in opened:
            await event.wait()
        print("ready", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--key", type=Path, required=True, help="file with the caller's key")
    parser.add_argument("--streams", type=int, required=True)
    arguments = parser.parse_args()
    uvloop.run(run(arguments.target, arguments.key.read_text(), arguments.streams))


if __name__ == "__main__":
    main()
