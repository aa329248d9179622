"""What keeps a cache fresh, against a server that stalls, over real gRPC."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from doorward import keeping
from doorward.v1 import authz_pb2 as pb
from tests.client.door import KEY
from tests.wire.replicas import until

QUESTIONS = 400
LONG = "read" * 2500
"""Reports of so many questions about so much are more than all buffers between client and server hold."""


class Stalling:
    """Permits all, for an hour. Its first stream answers pings until it `stalls`: from then on it reads none."""

    def __init__(self) -> None:
        self.asked = self.streams = 0
        self.stalls, self.over = threading.Event(), threading.Event()

    def rpcs(self) -> Any:
        authorize, lease = pb.AuthorizeRequest.FromString, pb.LeaseRequest.FromString
        return {
            "Authorize": grpc.unary_unary_rpc_method_handler(
                self.authorize, authorize, pb.AuthorizeResponse.SerializeToString
            ),
            "Lease": grpc.stream_stream_rpc_method_handler(self.lease, lease, pb.LeaseResponse.SerializeToString),
        }

    def authorize(self, request: Any, context: Any) -> pb.AuthorizeResponse:
        self.asked += 1
        answer = pb.AuthorizeResponse(decision=pb.DECISION_ALLOW, reason=pb.REASON_ALLOWED, revision=7, depends_on=[1])
        answer.lease_cacheable_for.seconds = 3600
        answer.identity.MergeFrom(pb.Identity(organization="acme", key_id="key_1", secret_id="sec_1"))
        return answer

    def lease(self, pings: Any, context: Any) -> Iterator[pb.LeaseResponse]:
        self.streams += 1
        for told in pings:
            if self.stalls.is_set():
                self.over.wait()
            pong = pb.LeaseResponse.Pong(sequence=told.ping.sequence, revision=7)
            pong.max_staleness.seconds = 1
            yield pb.LeaseResponse(pong=pong)


@pytest.fixture
def stalling() -> Iterator[tuple[Stalling, str]]:
    """The servicer, and where it is."""
    servicer, unbounded = Stalling(), [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=unbounded)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("doorward.v1.AuthzService", servicer.rpcs()),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    servicer.over.set()
    server.stop(None).wait()


def test_a_stream_on_which_nothing_more_can_be_said_is_given_up(make: Any, stalling: tuple[Stalling, str]) -> None:
    """The server does not read, and the reports of hits have filled what is between: no ping leaves any more."""
    servicer, target = stalling
    client = make(target, KEY, cache=2 * QUESTIONS)
    until(lambda: asked(servicer, client, QUESTIONS) == 0)
    servicer.stalls.set()
    until(lambda: asked(servicer, client, QUESTIONS) >= 0 and servicer.streams > 1)


def test_a_lease_is_asked_for_again_where_no_thread_could_be_made(
    make: Any, stalling: tuple[Stalling, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, target = stalling
    stream, tries = keeping._stream, list[Any]()

    def failing_once(connection: Any) -> Any:
        tries.append(connection)
        if len(tries) == 1:
            raise RuntimeError("can't start new thread")
        return stream(connection)

    monkeypatch.setattr(keeping, "_stream", failing_once)
    client = make(target, KEY, cache=10)
    until(lambda: asked(servicer, client, 1) == 0)
    assert len(tries) == servicer.streams + 1


def asked(servicer: Stalling, client: Any, questions: int) -> int:
    """Ask so much once more, and return how often the server was asked for it."""
    before = servicer.asked
    for number in range(questions):
        assert client.authorize("text", keyspace="k", action=LONG, resource=f"things/{number}", timeout=60)
    return servicer.asked - before
