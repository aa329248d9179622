"""What every call passes: a deadline, the caller's key, its message, the error table, the counters.

A servicer is a plain class with one method for each RPC, `async (request, caller) -> response`; it never sees the
transport. Where the caller streams, `request` is the iterator of its messages, and there is no deadline but its own.
`Gate.guarded` turns it into what grpcio calls. An RPC without such a method stops the start, and an answer that nobody
asked the guard about is a defect, not an answer. Bytes become messages here, not in grpcio: whoever has no key gets
nothing parsed, and what is no message is an error with a reason.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from doorward_server.core.errors import DoorwardError, Internal, InvalidField, Overloaded
from doorward_server.core.subject import Address
from doorward_server.service.authorizing import Authorizer
from doorward_server.service.guard import Caller
from doorward_server.wire.errors import STATUS, code_of, details_of, message_of
from doorward_server.wire.metrics import Metrics

DEFAULT_DEADLINE = 10.0
"""Seconds that a call without a deadline gets."""
MAX_CALLS = 1000
"""Unary calls that run at the same time. The pools of `app.build` hold some 800 pieces of work together; what came
beyond would wait for the event loop alone, with its message in memory, until nobody waits for the answer any more."""
MAX_STREAMS = 50
"""Calls in which the caller streams. They have no deadline but the caller's, so they must not take others' places."""
SILENCE = 60.0
"""Seconds within which a caller who streams must send its next message."""
MAX_STREAM_BYTES = 64 << 20
"""Of all messages of one call together; ten thousand usual rows of an import have a tenth of it."""
ACTING_FOR = "doorward-acting-for"

Method = Callable[[Any, Caller], Awaitable[Any]]
log = structlog.get_logger("doorward")


class Gate:
    """Wraps servicers. `quiet` RPCs leave no log line: they are many, and the metrics count them."""

    def __init__(self, authorizer: Authorizer, metrics: Metrics, quiet: frozenset[str]) -> None:
        self._authorizer = authorizer
        self._metrics = metrics
        self._quiet = quiet
        self._running = {False: 0, True: 0}  # by whether the caller streams
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether no call is running."""
        return not any(self._running.values())

    async def idle(self) -> None:
        """Wait until no call is running."""
        await self._idle.wait()

    def guarded(self, servicer: object, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return *servicer* as grpcio wants it. Raises AttributeError if an RPC of *service* has no method."""
        return {rpc.name: self._handler(getattr(servicer, rpc.name), rpc) for rpc in service.methods}

    def _handler(self, method: Method, rpc: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        name = f"/{rpc.containing_service.full_name}/{rpc.name}"
        streams, parse = rpc.client_streaming, GetMessageClass(rpc.input_type).FromString
        call = self._wrap(name, method, streams, partial(_stream if streams else _parsed, parse))
        handler = grpc.stream_unary_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return handler(call, None, GetMessageClass(rpc.output_type).SerializeToString)

    def _wrap(
        self, name: str, method: Method, streams: bool, parse: Callable[[Any], Any]
    ) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]:
        count, quiet = self._metrics.handled, name in self._quiet

        async def call(received: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = time.perf_counter()
            caller: Caller | None = None
            code = grpc.StatusCode.OK
            left = cast("float | None", context.time_remaining())  # None without a deadline, whatever the stubs say
            deadline = asyncio.timeout(DEFAULT_DEADLINE if left is None and not streams else None)
            entered = False
            try:
                self._enter(streams)
                entered = True
                async with deadline:
                    caller = await self._caller(context)
                    response = await method(parse(received), caller)
                if not caller.checked:
                    raise RuntimeError(f"{name} answered without asking the guard")
                return response
            except DoorwardError as raised:
                error = raised if type(raised) in STATUS else log_defect(name, raised)
                code = code_of(error)
                await _abort(context, error, code)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as defect:  # noqa: BLE001  # an exception that leaves the handler leaks in grpcio
                if isinstance(defect, TimeoutError) and deadline.expired():
                    code = grpc.StatusCode.DEADLINE_EXCEEDED
                    await context.abort(
                        code, f"No answer within {DEFAULT_DEADLINE:.0f} s, the deadline of calls without one."
                    )
                code = grpc.StatusCode.INTERNAL
                await _abort(context, log_defect(name, defect), code)
            finally:
                if entered:
                    self._leave(streams)
                seconds = time.perf_counter() - started
                count(name, code, seconds)
                if not quiet:
                    _log_call(name, code, seconds, caller)

        return call

    def _enter(self, streams: bool) -> None:
        if self._running[streams] >= (MAX_STREAMS if streams else MAX_CALLS):
            raise Overloaded
        self._running[streams] += 1
        self._idle.clear()

    def _leave(self, streams: bool) -> None:
        self._running[streams] -= 1
        if self.is_idle:
            self._idle.set()

    async def _caller(self, context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
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


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: DoorwardError, code: grpc.StatusCode) -> None:
    await context.abort(code, message_of(error), (("grpc-status-details-bin", details_of(error)),))


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
