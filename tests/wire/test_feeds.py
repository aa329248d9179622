"""RPCs in which the server streams, through the gate: who is served, what ends them, and what they may take."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import BytesValue, Int32Value

from doorward_server.core.errors import NotFound
from doorward_server.core.freshness import Outcome
from doorward_server.service.guard import Caller
from doorward_server.wire import gate
from doorward_server.wire.gate import Gate
from doorward_server.wire.metrics import Metrics
from tests.wire.replicas import until
from tests.wire.serving import TIMEOUT, Refusal, Server, bearer, refusal_of

COUNT = "/tests.FeedService/Count"
BIG = 200 << 10


class FeedServicer:
    """Counts to what it is asked for, in big messages; below 0 it fails after two, at 0 it says nothing."""

    def __init__(self) -> None:
        self.asks = True
        self.sent = 0
        self.ended = 0

    async def Count(self, request: Int32Value, caller: Caller) -> AsyncGenerator[BytesValue, None]:
        if self.asks:
            caller.checked.append("tests:count")
        try:
            for number in range(request.value if request.value >= 0 else 2):
                self.sent += 1
                yield BytesValue(value=number.to_bytes(2, "big") * (BIG // 2))
            if request.value < 0:
                raise NotFound("key", "k1")
        finally:
            self.ended += 1


def _service() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/feed.proto", package="tests", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    told = {"input_type": ".google.protobuf.Int32Value", "output_type": ".google.protobuf.BytesValue"}
    file.service.add(name="FeedService").method.add(name="Count", server_streaming=True, **told)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName("tests.FeedService")


class Feeds:
    """A server of that one service, behind the gate and the authorizer of a real Doorward."""

    def __init__(self, server: Server) -> None:
        self.servicer = FeedServicer()
        self._root = server.root
        self._server = server
        self.port = server.on_loop(self._start)
        self.channel: Any = grpc.insecure_channel(f"127.0.0.1:{self.port}")

    async def _start(self) -> int:
        async def spread(_: int | None) -> Outcome:
            raise AssertionError("nothing was changed")

        self.gate = Gate(self._server.app.authorizer, Metrics(), frozenset(), spread)
        self._grpc = grpc.aio.server()
        handlers = self.gate.guarded(self.servicer, _service())
        self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests.FeedService", handlers),))
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        await self._grpc.start()
        return port

    def count(self, to: int, key: str = "") -> Any:
        rpc = self.channel.unary_stream(
            COUNT, request_serializer=Int32Value.SerializeToString, response_deserializer=BytesValue.FromString
        )
        metadata = [] if key == "-" else bearer(key or self._root)
        return rpc(Int32Value(value=to), metadata=metadata, timeout=TIMEOUT)

    def close(self) -> None:
        self.channel.close()
        self._server.on_loop(lambda: self._grpc.stop(None))


@pytest.fixture
def feeds(server: Server) -> Iterator[Feeds]:
    it = Feeds(server)
    yield it
    it.close()


def read(answers: Any) -> tuple[list[int], Refusal | None]:
    """All numbers that came, and how it failed, if it did."""
    numbers: list[int] = []
    try:
        for answer in answers:
            assert len(answer.value) == BIG
            numbers.append(int.from_bytes(answer.value[:2], "big"))
    except grpc.RpcError as error:
        return numbers, refusal_of(error)
    return numbers, None


def test_all_messages_come_in_order_and_an_error_comes_behind_them(feeds: Feeds) -> None:
    assert read(feeds.count(20)) == (list(range(20)), None)
    assert read(feeds.count(0)) == ([], None)
    numbers, refusal = read(feeds.count(-1))
    assert numbers == [0, 1]
    assert refusal is not None
    assert (refusal.code, refusal.reason, refusal.metadata) == ("NOT_FOUND", "NOT_FOUND", {"type": "key", "id": "k1"})


@pytest.mark.parametrize("key", ["-", "dw_live_nonsense"])
def test_without_a_good_key_nothing_is_streamed(feeds: Feeds, key: str) -> None:
    numbers, refusal = read(feeds.count(3, key))
    assert numbers == []
    assert refusal is not None
    assert refusal.reason == "CALLER_UNAUTHENTICATED"
    assert feeds.servicer.sent == 0


@pytest.mark.parametrize("to", [0, 3])
def test_an_answer_that_nobody_asked_the_guard_about_is_a_defect(feeds: Feeds, to: int) -> None:
    feeds.servicer.asks = False
    numbers, refusal = read(feeds.count(to))
    assert numbers == []
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("INTERNAL", "INTERNAL")


def test_bytes_that_are_no_message_are_refused(feeds: Feeds) -> None:
    raw = feeds.channel.unary_stream(COUNT)
    numbers, refusal = read(raw(b"\xff", metadata=bearer(feeds._root), timeout=TIMEOUT))
    assert (numbers, refusal and refusal.reason) == ([], "INVALID_FIELD")


def test_who_does_not_read_is_not_waited_for(feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor read ahead for: what waits for a slow reader is one message, and what the network holds."""
    monkeypatch.setattr(gate, "SLOWEST", 0.1)
    answers = feeds.count(1000)
    until(lambda: feeds.servicer.ended == 1)
    assert feeds.servicer.sent < 500
    numbers, refusal = read(answers)
    assert len(numbers) <= feeds.servicer.sent
    assert refusal is not None
    assert refusal.code == "UNAVAILABLE"


def test_who_goes_away_ends_it(feeds: Feeds) -> None:
    answers = feeds.count(1000)
    next(answers)
    answers.cancel()
    until(lambda: feeds.servicer.ended == 1 and feeds.gate.is_idle)
    assert feeds.servicer.sent < 1000


def test_feeds_have_places_of_their_own_and_draining_waits_for_them(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setattr(gate, "MAX_FEEDS", 1)
    first = feeds.count(1000)
    next(first)
    numbers, refusal = read(feeds.count(1))
    assert numbers == []
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "OVERLOADED")
    assert not feeds.gate.is_idle
    drained = _in_background(lambda: server.on_loop(feeds.gate.idle))
    assert not drained.is_set()
    assert len(read(first)[0]) == 999
    assert drained.wait(TIMEOUT)
    assert read(feeds.count(1))[0] == [0]


def _in_background(work: Callable[[], object]) -> threading.Event:
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    threading.Thread(target=run, daemon=True).start()
    return done


def test_a_feed_has_no_deadline_but_its_callers(feeds: Feeds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "DEFAULT_DEADLINE", 0.0)
    assert read(feeds.count(2)) == ([0, 1], None)
