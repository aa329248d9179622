"""What the programs of a run have in common: orders from standard input, and calls to replicas.

Each is a process of its own that is told what to do in lines of JSON, one object each, and ends at `{"stop": true}` or
when its input ends, so that none outlives the run.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from doorward.v1 import authz_pb2, authz_pb2_grpc, directory_pb2_grpc, keys_pb2_grpc, keyspaces_pb2_grpc
from tests.chaos.history import DEFAULT, FRESH, FULL

OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # Doorward's replicas come back within seconds; grpc would wait for minutes after a few failures.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),  # one call is one call: a hidden second one would not be in the history
)


def orders() -> Iterator[dict[str, Any]]:
    """Give what the run says, until it says stop."""
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("stop"):
            return
        yield order


def first_order() -> dict[str, Any]:
    """Return what the process was started with."""
    read: dict[str, Any] = json.loads(sys.stdin.readline())
    return read


def in_background(work: Callable[[], None]) -> threading.Thread:
    """Run *work* on a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def tell(**said: Any) -> None:
    """Say something to the run, in one line."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


class Api:
    """One replica, as one caller reaches it."""

    def __init__(self, place: str, port: int, key: str) -> None:
        self.place = place
        self._metadata = (("authorization", f"Bearer {key}"),)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS)
        self._stubs: dict[str, Any] = {
            "authz": authz_pb2_grpc.AuthzServiceStub(self.channel),
            "keys": keys_pb2_grpc.KeyServiceStub(self.channel),
            "directory": directory_pb2_grpc.DirectoryServiceStub(self.channel),
            "keyspaces": keyspaces_pb2_grpc.KeyspaceServiceStub(self.channel),
        }

    def call(self, service: str, rpc: str, request: Any, timeout: float) -> Any:
        """Make one call. Raises grpc.RpcError."""
        return getattr(self._stubs[service], rpc)(request, timeout=timeout, metadata=self._metadata)

    def begin(self, service: str, rpc: str, request: Any, timeout: float) -> Any:
        """Begin one call, and return what waits for it."""
        return getattr(self._stubs[service], rpc).future(request, timeout=timeout, metadata=self._metadata)


def connect(targets: Sequence[tuple[str, int]], key: str) -> list[Api]:
    """Return every replica of *targets*, each a place and a port."""
    return [Api(place, port, key) for place, port in targets]


def question(text: str, keyspace: str, consistency: str = DEFAULT, revision: int = 0) -> authz_pb2.AuthorizeRequest:
    """Return the question that is asked about every text: may it read the one thing there is?"""
    asked = authz_pb2.AuthorizeRequest(
        key=text, keyspace=keyspace, action="things:read", resource=authz_pb2.Resource(type="things", id="1")
    )
    if consistency == FULL:
        asked.consistency.full = True
    elif consistency == FRESH:
        asked.consistency.at_least_as_fresh = revision
    return asked


def reason(answer: authz_pb2.AuthorizeResponse) -> str:
    """Return the reason in an answer, as histories have it."""
    return authz_pb2.Reason.Name(answer.reason).removeprefix("REASON_")
