"""What every call passes: a deadline, the caller's key, its message, the error table, the counters.

A servicer is a plain class with one method for each RPC, `async (request, caller) -> response`, a message or its bytes;
it never sees the transport. Where the caller streams, `request` is the iterator of its messages, and there is no
deadline but its own. Where both do, the method is an async generator over pairs of a message and its caller, who is
authenticated anew with each. Where the server alone does, it is an async generator that is given a message and its
caller; who does not read what it yields is not waited for, and one without end must end when the server stops. An
answer that says how far a change has come is held back until it has: here, so that no change is forgotten.
`Gate.guarded` turns it into what grpcio calls. An RPC without such a method stops the start, and an answer that nobody
asked the guard about is a defect, not an answer. Bytes become messages here, not in grpcio: whoever has no key gets
nothing parsed, and what is no message is an error with a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from doorward.v1 import freshness_pb2
from doorward_server.core.errors import (
    CountMismatch,
    DoorwardError,
    EtagMismatch,
    Internal,
    InvalidField,
    NotFound,
    Overloaded,
)
from doorward_server.core.freshness import Outcome
from doorward_server.core.subject import Address
from doorward_server.service.authorizing import Authorizer
from doorward_server.service.guard import Caller
from doorward_server.wire.deadlines import TooLate, bounded, unbounded
from doorward_server.wire.errors import STATUS, code_of, details_of, message_of
from doorward_server.wire.metrics import Metrics
from doorward_server.wire.turns import Turns

DEFAULT_DEADLINE = 10.0
"""Seconds that a call without a deadline gets."""
MAX_CALLS = 1000
"""Unary calls that run at the same time. The pools of `app.build` hold some 800 pieces of work together; what came
beyond would wait for the event loop alone, with its message in memory, until nobody waits for the answer any more."""
MAX_STREAMS = 50
"""Calls in which the caller streams. They have no deadline but the caller's, so they must not take others' places."""
MAX_CONVERSATIONS = 2000
"""Calls in which both sides stream, all but idle and without end: one for each process of a backend."""
MAX_FEEDS = 200
"""Calls in which the server streams: exports, and watching."""
SLOWEST = 5.0
"""Seconds within which a caller must take an answer of a stream; whoever does not read is not waited for."""
SILENCE = 60.0
"""Seconds within which a caller who streams must send its next message."""
MAX_STREAM_BYTES = 64 << 20
"""Of all messages of one call together; ten thousand usual rows of an import have a tenth of it."""
ACTING_FOR = "doorward-acting-for"

Context = grpc.aio.ServicerContext[Any, Any]
Telling = Callable[[Any, Context], Awaitable[None]]
Method = Callable[[Any, Caller], Coroutine[Any, Any, Any]]
Conversation = Callable[[AsyncIterator[tuple[Any, Caller]]], AsyncGenerator[Any, None]]
Feed = Callable[[Any, Caller], AsyncGenerator[Any, None]]
Spread = Callable[[int | None], Awaitable[Outcome]]
"""Waits until nobody can answer from before a revision (None: the latest), and returns how that is known."""
DONE_BEFORE = (NotFound, EtagMismatch, CountMismatch)
"""What a change may be told when it is sent again, because the first call timed out: that was one, too."""
PROPAGATIONS = {outcome: freshness_pb2.Propagation.Value(f"PROPAGATION_{outcome}") for outcome in Outcome}
log = structlog.get_logger("doorward")


class Kind(StrEnum):
    """Kinds of calls by who streams, each with places of its own."""

    UNARY = "nobody"
    STREAM = "the caller"
    FEED = "the server"
    CONVERSATION = "both"


def _places(kind: Kind) -> int:
    if kind is Kind.UNARY:
        return MAX_CALLS
    return {Kind.STREAM: MAX_STREAMS, Kind.FEED: MAX_FEEDS, Kind.CONVERSATION: MAX_CONVERSATIONS}[kind]


@dataclass(slots=True)
class _Vouched:
    """Who sends the messages of a call, as of the last one, and whether the guard was ever asked about them."""

    caller: Caller
    asked: bool = False

    @property
    def checked(self) -> bool:
        return self.asked or bool(self.caller.checked)


class Gate:
    """Wraps servicers. `quiet` RPCs leave no log line: they are many, and the metrics count them.

    *spread* is asked before a change is answered.
    """

    def __init__(self, authorizer: Authorizer, metrics: Metrics, quiet: frozenset[str], spread: Spread) -> None:
        self._authorizer = authorizer
        self._metrics = metrics
        self._quiet = quiet
        self._spread = spread
        self._running = dict.fromkeys(Kind, 0)
        self._turns = Turns()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether no call is running, but for conversations, which end when the server does."""
        running = self._running
        return not (running[Kind.UNARY] or running[Kind.STREAM] or running[Kind.FEED])

    async def idle(self) -> None:
        """Wait until `is_idle`."""
        await self._idle.wait()

    def guarded(self, servicer: object, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return *servicer* as grpcio wants it. Raises AttributeError if an RPC of *service* has no method."""
        return {rpc.name: self._handler(getattr(servicer, rpc.name), rpc) for rpc in service.methods}

    def _handler(self, method: Method, rpc: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        name = f"/{rpc.containing_service.full_name}/{rpc.name}"
        streams, parse = rpc.client_streaming, GetMessageClass(rpc.input_type).FromString
        written = GetMessageClass(rpc.output_type).SerializeToString
        if rpc.server_streaming and streams:
            return grpc.stream_stream_rpc_method_handler(self._converse(name, method, parse), None, written)  # type: ignore[arg-type]  # one that streams both ways is a Conversation
        if rpc.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._feed(name, method, parse), None, written)  # type: ignore[arg-type]  # one that streams answers is a Feed
        changes = "propagation" in rpc.output_type.fields_by_name
        call = self._wrap(name, method, streams, changes, partial(_stream if streams else _parsed, parse), written)
        handler = grpc.stream_unary_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return handler(call, None, None)

    def _wrap(
        self,
        name: str,
        method: Method,
        streams: bool,
        changes: bool,
        parse: Callable[[Any], Any],
        write: Callable[[Any], bytes],
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        count, quiet, kind = self._metrics.handled, name in self._quiet, Kind.STREAM if streams else Kind.UNARY
        within = unbounded if streams else bounded

        async def answer(received: Any, context: Context, who: list[Caller]) -> bytes:
            caller = await self._caller(context)
            who.append(caller)
            request = parse(received)
            response = await (self._changed(method, request, caller) if changes else method(request, caller))
            if not caller.checked:
                raise RuntimeError(f"{name} answered without asking the guard")
            return response if isinstance(response, bytes) else write(response)

        async def call(received: Any, context: Context) -> Any:
            started, code, entered = time.perf_counter(), grpc.StatusCode.OK, False
            who: list[Caller] = []
            try:
                self._enter(kind)
                entered = True
                if not streams:
                    await self._turns.next()
                return await within(answer(received, context, who), context, DEFAULT_DEADLINE)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as raised:  # noqa: BLE001  # an exception that leaves the handler leaks in grpcio
                if isinstance(raised, TooLate):
                    code = grpc.StatusCode.DEADLINE_EXCEEDED
                    await context.abort(
                        code, f"No answer within {DEFAULT_DEADLINE:.0f} s, the deadline of calls without one."
                    )
                error = _told(name, raised)
                code = code_of(error)
                await _abort(context, error, code)
            finally:
                if entered:
                    self._leave(kind)
                seconds = time.perf_counter() - started
                count(name, code, seconds)
                if not quiet:
                    _log_call(name, code, seconds, who[0] if who else None)

        return call

    async def _changed(self, method: Method, request: Any, caller: Caller) -> Any:
        """Return the answer of a method that changes something, once all that was changed has come far enough."""
        waits = not getattr(request, "no_wait", False)
        try:
            response = await method(request, caller)
        except DONE_BEFORE:
            if waits:
                await self._spread(None)
            raise
        if not response.propagation and waits:
            response.propagation = PROPAGATIONS[await self._spread(response.revision)]
        elif not response.propagation:
            response.propagation = freshness_pb2.PROPAGATION_NOT_AWAITED
        return response

    def _converse(self, name: str, method: Conversation, parse: Callable[[bytes], Message]) -> Telling:
        def begun(received: AsyncIterator[bytes], context: Context, who: _Vouched) -> AsyncGenerator[Any, None]:
            return method(self._messages(received, context, parse, who))

        return self._tell(name, Kind.CONVERSATION, begun)

    def _feed(self, name: str, method: Feed, parse: Callable[[bytes], Message]) -> Telling:
        async def begun(received: bytes, _: Context, who: _Vouched) -> AsyncGenerator[Any, None]:
            async with contextlib.aclosing(method(_parsed(parse, received), who.caller)) as answers:
                async for answer in answers:
                    yield answer
            if not who.checked:
                raise RuntimeError(f"{name} ended without asking the guard")

        return self._tell(name, Kind.FEED, begun)

    def _tell(
        self, name: str, kind: Kind, begun: Callable[[Any, Context, _Vouched], AsyncGenerator[Any, None]]
    ) -> Telling:
        async def call(received: Any, context: Context) -> None:
            started, code, entered = time.perf_counter(), grpc.StatusCode.OK, False
            who: _Vouched | None = None
            try:
                self._enter(kind)
                entered = True
                who = _Vouched(await self._caller(context))  # whoever has no key gets nothing parsed
                async with contextlib.aclosing(begun(received, context, who)) as answers:
                    async for answer in answers:
                        if not who.checked:
                            raise RuntimeError(f"{name} answered without asking the guard")
                        await _write(context, answer)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as raised:  # noqa: BLE001  # an exception that leaves the handler leaks in grpcio
                error = _told(name, raised)
                code = code_of(error)
                await _abort(context, error, code)
            finally:
                if entered:
                    self._leave(kind)
                seconds = time.perf_counter() - started
                self._metrics.handled(name, code, seconds)
                _log_call(name, code, seconds, who.caller if who else None)

        return call

    async def _messages(
        self,
        received: AsyncIterator[bytes],
        context: Context,
        parse: Callable[[bytes], Message],
        who: _Vouched,
    ) -> AsyncIterator[tuple[Message, Caller]]:
        messages = aiter(received)
        while (message := await _next(messages)) is not None:
            who.asked = who.checked
            who.caller = await self._caller(context)
            yield _parsed(parse, message), who.caller

    def _enter(self, kind: Kind) -> None:
        if self._running[kind] >= _places(kind):
            raise Overloaded
        self._running[kind] += 1
        if kind is not Kind.CONVERSATION:
            self._idle.clear()

    def _leave(self, kind: Kind) -> None:
        self._running[kind] -= 1
        if self.is_idle:
            self._idle.set()

    async def _caller(self, context: Context) -> Caller:
        presented, acting = [], []
        for key, value in context.invocation_metadata() or ():
            if key == "authorization" and isinstance(value, str):
                presented.append((key, value))
            elif key == ACTING_FOR and isinstance(value, str):
                acting.append(value)
        caller = await self._authorizer.authenticate(presented, peer_address(context.peer()))
        if not acting:
            return caller
        organization, slash, principal = acting[0].partition("/")
        if len(acting) > 1 or not slash:
            raise InvalidField(ACTING_FOR, "must be given once, as <organization>/<principal>")
        return await self._authorizer.act_for(caller, organization, principal)


async def _abort(context: Context, error: DoorwardError, code: grpc.StatusCode) -> None:
    await context.abort(code, message_of(error), (("grpc-status-details-bin", details_of(error)),))


async def _write(context: Context, answer: Any) -> None:
    try:
        async with asyncio.timeout(SLOWEST):
            await context.write(answer)
    except TimeoutError:
        raise Overloaded from None


def _parsed(parse: Callable[[bytes], Message], received: bytes) -> Message:
    try:
        return parse(received)
    except DecodeError:
        raise InvalidField("request", "is not a message of this RPC") from None


async def _stream(parse: Callable[[bytes], Message], received: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    size, messages = 0, aiter(received)
    while (message := await _next(messages)) is not None:
        size += len(message)
        if size > MAX_STREAM_BYTES:
            raise InvalidField("request", f"all messages of one call must have at most {MAX_STREAM_BYTES >> 20} MiB")
        yield _parsed(parse, message)


async def _next(messages: AsyncIterator[bytes]) -> bytes | None:
    """Return the next message; None at the end. Raises InvalidField after a silence that would keep others' places."""
    try:
        async with asyncio.timeout(SILENCE):
            return await anext(messages)
    except StopAsyncIteration:
        return None
    except TimeoutError:
        raise InvalidField("request", f"must go on within {SILENCE:g} s; what was taken in stays") from None


def _told(name: str, raised: Exception) -> DoorwardError:
    """Return what a caller is told of *raised*, by the one table."""
    return raised if isinstance(raised, DoorwardError) and type(raised) in STATUS else log_defect(name, raised)


def log_defect(name: str, defect: Exception) -> Internal:
    """Log what nobody foresaw in *name*, an RPC or other work, and return what a caller is told of it."""
    request = secrets.token_hex(8)
    # Not the exception's text: it may hold what the caller sent.
    where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(defect.__traceback__)]
    log.error("defect", method=name, request=request, kind=type(defect).__name__, where=where)
    return Internal(request)


def _log_call(name: str, code: grpc.StatusCode, seconds: float, caller: Caller | None) -> None:
    who: dict[str, str] = {}
    if caller is not None and caller.subject.key is not None:
        who = {"organization": caller.organization, "key": caller.subject.key.id}
        if caller.acting_for is not None and caller.acting_for.owner is not None:
            who["acting_for"] = f"{caller.acting_for.organization.id}/{caller.acting_for.owner.id}"
    log.info("call", method=name, code=code.name, ms=round(seconds * 1000, 1), **who)


@lru_cache(maxsize=4096)
def peer_address(peer: str) -> Address | None:
    """Return the address in what grpcio calls a peer, e.g. "ipv6:%5B::1%5D:50051"; None for a Unix socket."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
