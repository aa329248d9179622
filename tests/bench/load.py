"""A load generator for machines without h2load: makes many calls of one unary RPC over several connections.

A process of its own. Each line that it reads is an order in JSON: {"target", "path", "body" and "key" in base64 and
clear, "calls", "connections", "streams"}; each line that it writes is what came of it: {"seconds", "each": [ms…]}.
Slower than h2load, and slower than an empty RPC's server: with it, the throughput of cheap calls is that of this
process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import uvloop


async def _stream(
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], body: bytes, key: str, todo: Iterator[int], each: list[float]
) -> None:
    metadata = (("authorization", f"Bearer {key}"),) if key else None
    for _ in todo:
        began = time.perf_counter()
        await call(body, metadata=metadata)
        each.append((time.perf_counter() - began) * 1000)


async def run(order: dict[str, Any]) -> dict[str, object]:
    """Make the calls; a call that fails ends everything."""
    body = base64.b64decode(order["body"])
    # Without this option, channels to one address share one connection.
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(order["target"], options) for _ in range(order["connections"])]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    todo = iter(range(order["calls"]))
    started, each = time.perf_counter(), list[float]()
    streams = [
        _stream(channel.unary_unary(order["path"]), body, order["key"], todo, each)
        for channel in channels
        for _ in range(order["streams"])
    ]
    await asyncio.gather(*streams)
    seconds = time.perf_counter() - started
    for channel in channels:
        await channel.close()
    return {"seconds": seconds, "each": each}


async def main() -> None:
    """Carry out one order after the other, until there are none."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await run(json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
