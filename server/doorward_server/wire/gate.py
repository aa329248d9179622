"""What every call passes: a deadline, the caller's key, the error table, the counters.

A servicer is a plain class with one method for each RPC, `async (request, caller) -> response`; it never sees the
transport. `Gate.guarded` turns it into what grpcio calls. An RPC without such a method stops the start, and an answer
that nobody asked the guard about is a defect, not an answer.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import lru_cache
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from doorward_server.core.decide import Address
from doorward_server.core.errors import DoorwardError, Internal, InvalidField
from doorward_server.service.authorizing import Authorizer
from doorward_server.service.guard import Caller
from doorward_server.wire.errors import STATUS, code_of, details_of, message_of
from doorward_server.wire.metrics import Metrics

DEFAULT_DEADLINE = 10.0
"""Seconds that a call without a deadline gets."""
ACTING_FOR = "doorward-acting-for"

Method = Callable[[Any, Caller], Awaitable[Any]]
log = structlog.get_logger("doorward")


class Gate:
    """Wraps servicers. `quiet` RPCs leave no log line: they are many, and the metrics count them."""

    def __init__(self, authorizer: Authorizer, metrics: Metrics, quiet: frozenset[str]) -> None:
        self._authorizer = authorizer
        self._metrics = metrics
        self._quiet = quiet
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether no call is running."""
        return self._running == 0

    async def idle(self) -> None:
        """Wait until no call is running."""
        await self._idle.wait()

    def guarded(self, servicer: object, service: ServiceDescriptor) -> Any:
        """Return *servicer* as grpcio wants it. Raises AttributeError if an RPC of *service* has no method."""
        calls = {
            method.name: self._wrap(f"/{service.full_name}/{method.name}", getattr(servicer, method.name))
            for method in service.methods
        }
        return SimpleNamespace(**calls)

    def _wrap(self, name: str, method: Method) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]:
        count, quiet = self._metrics.handled, name in self._quiet

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = time.perf_counter()
            caller: Caller | None = None
            code = grpc.StatusCode.OK
            left = cast("float | None", context.time_remaining())  # None without a deadline, whatever the stubs say
            deadline = asyncio.timeout(DEFAULT_DEADLINE if left is None else None)
            self._enter()
            try:
                async with deadline:
                    caller = await self._caller(context)
                    response = await method(request, caller)
                if not caller.checked:
                    raise RuntimeError(f"{name} answered without asking the guard")
                return response
            except DoorwardError as raised:
                error = raised if type(raised) in STATUS else _logged(name, raised)
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
                await _abort(context, _logged(name, defect), code)
            finally:
                self._leave()
                seconds = time.perf_counter() - started
                count(name, code, seconds)
                if not quiet:
                    _log_call(name, code, seconds, caller)

        return call

    def _enter(self) -> None:
        self._running += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._running -= 1
        if not self._running:
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


def _logged(name: str, defect: Exception) -> Internal:
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
