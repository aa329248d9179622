"""A server that says what it is told to, over real gRPC, and remembers what it was asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from doorward.v1 import (
    alerts_pb2,
    alerts_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    authz_pb2,
    authz_pb2_grpc,
    credits_pb2,
    credits_pb2_grpc,
    directory_pb2,
    directory_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    keyspaces_pb2,
    keyspaces_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
    webhooks_pb2,
    webhooks_pb2_grpc,
)

KEY = "dw_live_0123456789abcdefghijklmnopqrstuvwxyzABCD"
"""The key that the clients of these tests call with."""


@dataclass(frozen=True)
class Failure:
    """A status to answer with."""

    code: grpc.StatusCode
    message: str = "No."
    details: bytes = b""
    early: bool = False
    """Of a stream: before it is read."""


def failure(code: grpc.StatusCode, reason: str, field: str = "", domain: str = "doorward", **metadata: str) -> Failure:
    """Return a failure as Doorward's server sends it, made with the real messages of google.rpc."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)
    details = [info]
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description="is wrong")
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=code.value[0], message="No.", details=map(_packed, details))
    return Failure(code, "No.", status.SerializeToString())


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


@dataclass(frozen=True)
class Asked:
    """One call as it arrived."""

    rpc: str
    request: Any
    metadata: dict[str, str | bytes]
    seconds: float | None
    peer: str


Answer = Message | Failure | Callable[[Any], Message]


@dataclass(frozen=True)
class Fed:
    """What one stream of answers has, and how it ends."""

    answers: tuple[Message, ...]
    end: Failure | None = None


@dataclass
class Door:
    """What to answer, and what was asked."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    fed: dict[str, list[Fed]] = field(default_factory=lambda: defaultdict(list))

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    def will(self, rpc: str, *answers: Answer) -> None:
        """Give these answers to the next calls of an RPC; the last one to all after them, too."""
        self.answers[rpc] = list(answers)

    def feed(self, rpc: str, empty: Message, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        """Give the next of this RPC's `fed` streams; without any, all of its answers, one after the other."""
        if self.fed[rpc]:
            yield from self._fed(rpc, request, context)
            return
        while True:
            more = len(self.answers[rpc]) > 1
            yield self.answer(rpc, empty, request, context)
            if not more:
                return

    def answer(self, rpc: str, empty: Message, request: Any, context: grpc.ServicerContext) -> Message:
        script = self.answers[rpc]
        answer: Answer = (script.pop(0) if len(script) > 1 else script[0]) if script else empty
        if not isinstance(request, Message):
            request = [] if isinstance(answer, Failure) and answer.early else list(request)
        metadata = dict(context.invocation_metadata())
        self.asked.append(Asked(rpc, request, metadata, context.time_remaining(), context.peer()))
        if isinstance(answer, Failure):
            if answer.details:
                context.set_trailing_metadata((("grpc-status-details-bin", answer.details),))
            context.abort(answer.code, answer.message)
        return answer if isinstance(answer, Message) else answer(request)

    def _fed(self, rpc: str, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        self.asked.append(
            Asked(rpc, request, dict(context.invocation_metadata()), context.time_remaining(), context.peer())
        )
        fed = self.fed[rpc].pop(0)
        yield from fed.answers
        if fed.end is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", fed.end.details),))
            context.abort(fed.end.code, fed.end.message)


def _servicer(door: Door, base: type, file: Any) -> Any:
    """Return a servicer of a generated base class whose every RPC asks the door; a stream is a list by then."""
    service = file.DESCRIPTOR.services_by_name[base.__name__.removesuffix("Servicer")]

    def handler(method: Any) -> Callable[..., Any]:
        empty = getattr(file, method.output_type.name)()
        if method.server_streaming and not method.client_streaming:
            return lambda self, request, context: door.feed(method.name, empty, request, context)
        return lambda self, request, context: door.answer(method.name, empty, request, context)

    return type(base.__name__, (base,), {method.name: handler(method) for method in service.methods})()


@contextmanager
def opened(credentials: grpc.ServerCredentials | None = None) -> Iterator[Door]:
    """Serve on a free port until the end."""
    door = Door()
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    webhooks_pb2_grpc.add_WebhookServiceServicer_to_server(
        _servicer(door, webhooks_pb2_grpc.WebhookServiceServicer, webhooks_pb2), server
    )
    alerts_pb2_grpc.add_AlertServiceServicer_to_server(
        _servicer(door, alerts_pb2_grpc.AlertServiceServicer, alerts_pb2), server
    )
    authz_pb2_grpc.add_AuthzServiceServicer_to_server(
        _servicer(door, authz_pb2_grpc.AuthzServiceServicer, authz_pb2), server
    )
    directory_pb2_grpc.add_DirectoryServiceServicer_to_server(
        _servicer(door, directory_pb2_grpc.DirectoryServiceServicer, directory_pb2), server
    )
    keys_pb2_grpc.add_KeyServiceServicer_to_server(_servicer(door, keys_pb2_grpc.KeyServiceServicer, keys_pb2), server)
    credits_pb2_grpc.add_CreditServiceServicer_to_server(
        _servicer(door, credits_pb2_grpc.CreditServiceServicer, credits_pb2), server
    )
    audit_pb2_grpc.add_AuditServiceServicer_to_server(
        _servicer(door, audit_pb2_grpc.AuditServiceServicer, audit_pb2), server
    )
    keyspaces_pb2_grpc.add_KeyspaceServiceServicer_to_server(
        _servicer(door, keyspaces_pb2_grpc.KeyspaceServiceServicer, keyspaces_pb2), server
    )
    usage_pb2_grpc.add_UsageServiceServicer_to_server(
        _servicer(door, usage_pb2_grpc.UsageServiceServicer, usage_pb2), server
    )
    address = "127.0.0.1:0"
    door.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield door
    finally:
        server.stop(None).wait()
