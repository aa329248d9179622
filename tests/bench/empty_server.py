"""A server with one unary RPC that does nothing, under the options of the real one: what a transport costs without us.

Bytes in, bytes out: no message is parsed or made. Prints its port and serves until it is terminated.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import grpc
import uvloop

from doorward_server.wire.native import native_server
from doorward_server.wire.server import OPTIONS


async def _empty(_request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return b""


def _server(transport: str) -> grpc.aio.Server:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Call": grpc.unary_unary_rpc_method_handler(_empty)}
    if transport == "native":
        return native_server({"bench.Empty": handlers}, OPTIONS)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Empty", handlers),))
    return server


async def main(transport: str) -> None:
    """Serve `/bench.Empty/Call` on a free port of this machine."""
    server = _server(transport)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1] if len(sys.argv) > 1 else "grpcio"))
