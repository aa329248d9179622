"""Connections: opened at the first call, spread over the workers of a server, and never taken across a fork."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor

from doorward.config import Settings, is_loopback
from doorward.v1 import (
    alerts_pb2,
    audit_pb2,
    authz_pb2,
    credits_pb2,
    directory_pb2,
    keys_pb2,
    keyspaces_pb2,
    usage_pb2,
    webhooks_pb2,
)

C = TypeVar("C", bound=grpc.Channel | grpc.aio.Channel)

_FILES: tuple[FileDescriptor, ...] = (
    alerts_pb2.DESCRIPTOR,
    webhooks_pb2.DESCRIPTOR,
    authz_pb2.DESCRIPTOR,
    directory_pb2.DESCRIPTOR,
    keys_pb2.DESCRIPTOR,
    keyspaces_pb2.DESCRIPTOR,
    usage_pb2.DESCRIPTOR,
    audit_pb2.DESCRIPTOR,
    credits_pb2.DESCRIPTOR,
)

PATHS = {
    method.input_type.full_name: f"/{service.full_name}/{method.name}"
    for file in _FILES
    for service in file.services_by_name.values()
    for method in service.methods
}
"""The RPC for a request, by the full name of the request's type: each has one of its own."""

DECISIONS = frozenset(name for name, path in PATHS.items() if path.startswith("/doorward.v1.AuthzService/"))
"""The requests that somebody's own request waits for."""

_KINDS = {
    method.input_type.full_name: "_".join(
        "stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming)
    )
    for file in _FILES
    for service in file.services_by_name.values()
    for method in service.methods
}
"""What a channel calls an RPC's kind, by who streams: the caller, the server."""

# Calls whose second try could do harm or answer with an error about the first one's success. CreateKey and RotateKey
# are not among them: every one of them carries a request_id. BatchRevokeKeys counts what it ended, which a second try
# would not find again. ImportKeys is long and dear, and its caller sends it again if it fails. A Lease that ended
# begins with nothing, which its holder must know. RotateWebhookSecret would forget the secret of the first try, and
# SetCredits give back what was used in between. An Authorize that takes credits may be charged for each try whose
# connection breaks, see docs/credits.md; where its server lives, that says itself that it is not to be tried again.
_NOT_REPEATABLE = frozenset(
    f"{verb}{noun}"
    for noun in ("Organization", "Principal", "Group", "Binding", "Webhook")
    for verb in ("Create", "Delete")
) | {
    "BatchRevokeKeys",
    "DeleteAlertRule",
    "DeleteKey",
    "DeleteResource",
    "ImportKeys",
    "Lease",
    "RotateWebhookSecret",
    "SetCredits",
}

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method}
                for _, service, method in (path.split("/") for path in PATHS.values())
                if method not in _NOT_REPEATABLE
            ],
            # No timeout in here: it would cap what a caller asks for. No waitForReady: a dead server is told at once.
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


def options(target: str) -> list[tuple[str, Any]]:
    """Return the channel arguments for a target."""
    chosen: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        # Without this, channels to the same target share one connection.
        ("grpc.use_local_subchannel_pool", 1),
        # A server that is back is found within a second, not within the two minutes that gRPC backs off for.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Unary calls never last until a ping; but this makes the kernel give up on a connection whose peer has
        # acknowledged nothing for five seconds (TCP_USER_TIMEOUT), where it would else take a quarter of an hour.
        ("grpc.keepalive_time_ms", 360_000),
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
    if is_loopback(target):
        # http_proxy must not carry what is plaintext only because it does not leave this machine.
        chosen.append(("grpc.enable_http_proxy", 0))
    return chosen


def open_sync(settings: Settings) -> grpc.Channel:
    """Open a channel; it connects at its first call."""
    arguments = options(settings.target)
    credentials = _credentials(settings)
    if credentials is None:
        return grpc.insecure_channel(settings.target, arguments)
    return grpc.secure_channel(settings.target, credentials, arguments)


def open_aio(settings: Settings) -> grpc.aio.Channel:
    """Open a channel of the running event loop; it connects at its first call."""
    arguments = options(settings.target)
    credentials = _credentials(settings)
    if credentials is None:
        return grpc.aio.insecure_channel(settings.target, arguments)
    return grpc.aio.secure_channel(settings.target, credentials, arguments)


def _credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    pem = settings.pem
    return None if pem is None else grpc.ssl_channel_credentials(pem.ca, pem.private_key, pem.certificate)


class Connection(Generic[C]):
    """A channel and the callables made on it so far."""

    def __init__(self, channel: C) -> None:
        self.channel = channel
        self._methods: dict[str, Any] = {}

    def method(self, request: type[Any], answer: type[Any]) -> Any:
        """Return the callable for the RPC that takes this request."""
        name = request.DESCRIPTOR.full_name
        found = self._methods.get(name)
        if found is None:
            make = getattr(self.channel, _KINDS[name])
            found = self._methods[name] = make(
                PATHS[name], request_serializer=request.SerializeToString, response_deserializer=answer.FromString
            )
        return found


class Opened(NamedTuple, Generic[C]):
    """The connections of a pool, and where they belong."""

    connections: tuple[Connection[C], ...]
    turns: Iterator[Connection[C]]
    home: object


class Pool(Generic[C]):
    """Connections, used in turn. Thread-safe; opened at first use, and anew in a forked child or in another event loop.

    `home` says where channels that are made now belong: they are used nowhere else.
    """

    def __init__(self, make: Callable[[], C], count: int, home: Callable[[], object] = lambda: None) -> None:
        self._make, self._count, self._home = make, count, home
        self._closed = False
        self.forget()
        _POOLS.add(self)

    def forget(self) -> None:
        """Start anew, without a word to the channels there are."""
        self._lock = threading.Lock()
        self._opened: Opened[C] | None = None

    def next(self) -> Connection[C]:
        """Return the connection whose turn it is."""
        opened = self._opened
        if opened is None or opened.home is not self._home():
            opened = self.open()
        return next(opened.turns)

    def open(self) -> Opened[C]:
        """Return all connections, opened if they were not. Raises RuntimeError where there can be none."""
        if _LAME:
            raise RuntimeError(_LAME[0])
        with self._lock:
            if self._closed:
                raise RuntimeError("this client is closed")
            home = self._home()
            if self._opened is None or self._opened.home is not home:
                connections = tuple(Connection(self._make()) for _ in range(self._count))
                self._opened = Opened(connections, itertools.cycle(connections), home)
            return self._opened

    def close(self) -> tuple[Connection[C], ...]:
        """Hand out what is open, to be closed; from now on nothing is opened."""
        with self._lock:
            self._closed = True
            opened, self._opened = self._opened, None
            return opened.connections if opened else ()


def sync_pool(settings: Settings, count: int) -> Pool[grpc.Channel]:
    """Return connections for threads."""
    return Pool(lambda: open_sync(settings), count)


def aio_pool(settings: Settings, count: int) -> Pool[grpc.aio.Channel]:
    """Return connections for the event loop that runs at each use: gRPC's belong to the loop they were made in."""
    return Pool(lambda: open_aio(settings), count, asyncio.get_running_loop)


_POOLS: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()
_PARENTS: list[object] = []
"""The parent's channels, in a forked child. Kept: to destroy them could speak on connections that the parent uses."""


_LAME: list[str] = []
"""Why gRPC does not work in this process, if it does not."""


def _after_fork_in_child() -> None:
    for pool in list(_POOLS):
        opened = pool._opened
        _PARENTS.append(opened)
        pool.forget()
        if opened and isinstance(opened.connections[0].channel, grpc.aio.Channel):
            # Measured on grpcio 1.78: calls of the child hang or crash it, and an async one crashes the parent, too.
            _LAME[:] = [
                "grpc.aio does not survive a fork: close every AsyncClient before, or fork before its first call"
            ]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
