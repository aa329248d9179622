"""A server with one unary RPC that does nothing, under the options of the real one: what grpcio costs without us.

Bytes in, bytes out: no message is parsed or made. Prints its port and serves until it is terminated.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
import uvloop

from doorward_server.wire.server import OPTIONS


async def _empty(_request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    return b""


async def main() -> None:
    """Serve `/bench.Empty/Call` on a free port of this machine."""
    server = grpc.aio.server(options=OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Call": grpc.unary_unary_rpc_method_handler(_empty)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Empty", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
