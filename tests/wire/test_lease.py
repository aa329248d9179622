"""The Lease stream: what it tells, in which order, to whom, and when it ends. Over real gRPC, on both stores."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from doorward.v1 import authz_pb2, keys_pb2
from doorward_server.wire import gate
from tests.wire.replicas import ACKNOWLEDGED, blocked_tail, settled
from tests.wire.serving import TIMEOUT, Refusal, Server, refusal_of, refused
from tests.wire.tenants import Tenant, question


class Stream:
    """A caller's end of a Lease stream. It says only what a test has it say."""

    def __init__(self, server: Server, key: str, organization: str = "", *keyspaces: str) -> None:
        self._sending: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._where: dict[str, Any] = {"organization": organization, "keyspaces": keyspaces}
        self._sequence = 0
        self.answers = server.api(key).authz.Lease(iter(self._sending.get, None))

    def ping(self, applied: int = 0) -> int:
        self._sequence += 1
        ping = authz_pb2.LeaseRequest.Ping(sequence=self._sequence, applied_revision=applied)
        self._sending.put(authz_pb2.LeaseRequest(ping=ping, **self._where))
        return self._sequence

    def next(self) -> Any:
        """What is told next: an invalidation or a pong."""
        answer = next(self.answers)
        return answer.pong if answer.HasField("pong") else answer.invalidation

    def pong(self, applied: int = 0) -> Any:
        """Ping, and return the pong; what comes before it is dropped."""
        sequence = self.ping(applied)
        while (told := self.next()).DESCRIPTOR.name != "Pong" or told.sequence != sequence:
            pass
        return told

    def ended(self) -> Refusal:
        """Read on until the stream fails."""
        try:
            for _ in self.answers:
                pass
        except grpc.RpcError as error:
            return refusal_of(error)
        raise AssertionError("the stream ended well")

    def close(self) -> None:
        self._sending.put(None)
        self.answers.cancel()


@pytest.fixture
def opened(server: Server, acme: Tenant) -> Iterator[Callable[..., Stream]]:
    """Opens streams of a backend of acme, or of whoever is given, and closes them in the end."""
    key, streams = acme.key("doorward", scopes=["backend"]).text, list[Stream]()

    def open_one(text: str = key, organization: str = "") -> Stream:
        streams.append(Stream(server, text, organization, "aiia"))
        return streams[-1]

    yield open_one
    for stream in streams:
        stream.close()


def test_a_pong_tells_the_revision_and_how_long_the_lease_is(server: Server, opened: Callable[..., Stream]) -> None:
    pong = opened().pong()
    assert pong.revision == server.app.freshness.cache.applied
    assert (pong.max_staleness.seconds, pong.max_staleness.nanos) == (1, 0)


def test_what_a_change_ends_is_told_before_the_pong(
    server: Server, acme: Tenant, opened: Callable[..., Stream]
) -> None:
    held = acme.key(scopes=["read:findings"])
    settled(server)
    answer = server.api().authz.Authorize(question(held.text, "findings:read", keyspace="aiia", organization=acme.id))
    stream = opened()
    applied = stream.pong().revision
    revoked = acme.root.keys.RevokeKey(_revoke(acme, held.id, no_wait=True))
    told = stream.next()
    assert told.DESCRIPTOR.name == "Invalidation"
    assert told.revision >= revoked.revision > answer.revision
    assert told.all or set(told.dropped) & set(answer.depends_on)
    assert stream.pong(applied).revision >= revoked.revision


def test_a_change_waits_for_the_caches_of_callers(acme: Tenant, opened: Callable[..., Stream]) -> None:
    held, stream = acme.key(scopes=["read:findings"]), opened()
    applied = stream.pong().revision
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    acme.root.keys.RevokeKey.future(_revoke(acme, held.id)).add_done_callback(lambda it: done.put(it.result()))
    told = stream.next()
    assert told.revision > applied
    stream.pong(told.revision)
    assert done.get(timeout=TIMEOUT).propagation == ACKNOWLEDGED


def test_a_lease_ends_with_the_key_that_asked_for_it(acme: Tenant, opened: Callable[..., Stream]) -> None:
    mine = acme.key("doorward", scopes=["backend"])
    stream = opened(mine.text)
    stream.pong()
    acme.revoke(mine.id)
    stream.ping()
    assert stream.ended().reason == "CALLER_UNAUTHENTICATED"


def test_a_lease_ends_with_the_right_to_it(acme: Tenant, opened: Callable[..., Stream]) -> None:
    person = acme.person()
    binding = acme.bind("doorward", "backend", principal=person)
    stream = opened(acme.key("doorward", owner=person, ceiling=keys_pb2.CEILING_OWNER).text)
    stream.pong()
    acme.unbind(binding)
    stream.ping()
    assert stream.ended().reason == "CALLER_FORBIDDEN"


def test_no_poll_no_pong(server: Server, opened: Callable[..., Stream]) -> None:
    """A pong proves that all was seen after its ping arrived: while nothing is polled, there is none."""
    stream, told = opened(), queue.SimpleQueue[Any]()
    stream.pong()
    reader = threading.Thread(target=lambda: told.put(stream.next()))
    with blocked_tail(server):
        stream.ping()
        reader.start()
        with pytest.raises(queue.Empty):
            told.get(timeout=0.5)  # several polls
    assert told.get(timeout=TIMEOUT).DESCRIPTOR.name == "Pong"
    reader.join()


def test_streams_have_places_of_their_own(
    server: Server, opened: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().pong()
    monkeypatch.setattr(gate, "MAX_CONVERSATIONS", 1)
    refusal = refused(lambda: opened().pong())
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "OVERLOADED")
    assert server.api().authz.Introspect(authz_pb2.IntrospectRequest()).identity.key_name == "root"


def test_a_message_without_a_ping_is_refused(server: Server) -> None:
    stream = Stream(server, server.root)
    stream._sending.put(authz_pb2.LeaseRequest())
    refusal = stream.ended()
    stream.close()
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "ping")


def _revoke(acme: Tenant, id: str, **more: Any) -> Any:
    return keys_pb2.RevokeKeyRequest(organization=acme.id, id=id, **more)
