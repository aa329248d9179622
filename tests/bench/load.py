"""A load generator for machines without h2load: so many calls of one unary RPC over several connections.

Slower than h2load, and slower than an empty RPC's server: with it, the throughput of cheap calls is that of this
process. Prints {"seconds": …, "ok": …}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import uvloop


async def _stream(
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], body: bytes, key: str, todo: Iterator[int]
) -> int:
    done = 0
    metadata = (("authorization", f"Bearer {key}"),) if key else None
    for _ in todo:
        await call(body, metadata=metadata)
        done += 1
    return done


async def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Make the calls; a call that fails ends everything."""
    body = arguments.body.read_bytes()
    key = arguments.key.read_text() if arguments.key else ""
    # Without this option, channels to one address share one connection.
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(arguments.target, options) for _ in range(arguments.connections)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    todo = iter(range(arguments.calls))
    started = time.perf_counter()
    streams = [
        _stream(channel.unary_unary(arguments.path), body, key, todo)
        for channel in channels
        for _ in range(arguments.streams)
    ]
    done = sum(await asyncio.gather(*streams))
    seconds = time.perf_counter() - started
    for channel in channels:
        await channel.close()
    return {"seconds": seconds, "ok": done}


def main() -> None:
    """Parse the command line and print the outcome."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("path")
    parser.add_argument("--body", type=Path, required=True, help="file with the serialized request")
    parser.add_argument("--key", type=Path, help="file with the caller's key")
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--streams", type=int, default=10)
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
