"""The experimental transport: pygrpc-native, which speaks HTTP/2 in Rust, outside the GIL, and keeps the event loop for
the handlers. Unary RPCs only.

It hands whatever streams to a grpcio server behind a Unix socket, where every caller has lost its address and so its
own budget of failed proofs. Those RPCs are not given to it: they are UNIMPLEMENTED here, as is health's Watch, whose
open calls would hold up every drain. docs/operating.md lists the bounds that it does not keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

NOT_KEPT = frozenset({"grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms"})
"""Options that it refuses to take. Others that it cannot keep it passes over without a word, as grpcio does."""
Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]


class TransportMissing(Exception):
    """The package of the transport is not installed."""


def native_server(services: Mapping[str, Handlers], options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    """Return a server that is not yet bound or started, with the unary RPCs of *services* by their full names.

    Belongs on a running event loop. Raises TransportMissing.
    """
    try:
        from pygrpc_native.aio import Server
    except ImportError:
        raise TransportMissing(
            "The native transport needs the package pygrpc-native: pip install 'doorward[server,native]', "
            "or leave out --transport and DOORWARD_TRANSPORT."
        ) from None
    server: grpc.aio.Server = Server(options=[option for option in options if option[0] not in NOT_KEPT])
    for name, handlers in services.items():
        unary = {rpc: it for rpc, it in handlers.items() if not (it.request_streaming or it.response_streaming)}
        server.add_registered_method_handlers(name, unary)
    return server
