"""The gRPC server: its bounds, its credentials, what it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

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
from doorward_server.wire.gate import Gate

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (keys_pb2, "KeyService"),
        (authz_pb2, "AuthzService"),
        (directory_pb2, "DirectoryService"),
        (keyspaces_pb2, "KeyspaceService"),
        (alerts_pb2, "AlertService"),
        (webhooks_pb2, "WebhookService"),
        (usage_pb2, "UsageService"),
        (audit_pb2, "AuditService"),
        (credits_pb2, "CreditService"),
    )
)
QUIET = frozenset(
    f"/doorward.v1.AuthzService/{method}"
    for method in ("Authorize", "BatchAuthorize", "Introspect", "ListAllowedActions", "ListAccessibleResources")
)

Transport = Literal["grpcio", "native"]
"""Who speaks HTTP/2. Neither the gate nor a servicer can tell."""
KIB = 1024
OPTIONS = (
    ("grpc.max_receive_message_length", 256 * KIB),
    ("grpc.max_metadata_size", 16 * KIB),
    ("grpc.absolute_max_metadata_size", 16 * KIB),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.max_connection_age_ms", 30 * 60 * 1000),
    ("grpc.max_connection_age_grace_ms", 30 * 1000),
    ("grpc.server_handshake_timeout_ms", 10 * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10 * 1000),
    # Nothing but uncompressed messages: 256 KiB of zeros take a few hundred bytes to send, and a core to unpack.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)
"""Bounds of design.md section 9. grpcio ignores names it does not know: a test looks each up in its binary."""


@dataclass(frozen=True, slots=True)
class Servicers:
    """One servicer for each service, in the order of `SERVICES`."""

    keys: object
    authz: object
    directory: object
    keyspaces: object
    alerts: object
    webhooks: object
    usage: object
    audit: object
    credits: object


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts. With `client_ca`, callers must show a certificate of it."""

    certificate: bytes
    private_key: bytes
    client_ca: bytes | None

    def credentials(self) -> grpc.ServerCredentials:
        """Return what grpcio wants. Raises ValueError if it cannot use them."""
        return grpc.ssl_server_credentials(
            [(self.private_key, self.certificate)], self.client_ca, require_client_auth=self.client_ca is not None
        )


class BindFailed(Exception):
    """The address is taken, not ours, or misspelt."""


class TransportMissing(Exception):
    """The package of the transport is not installed."""


def make_server(
    gate: Gate,
    servicers: Servicers,
    health_servicer: health.aio.HealthServicer,
    *,
    transport: Transport = "grpcio",
    shares_port: bool = False,
) -> grpc.aio.Server:
    """Return a server that is not yet bound or started. Belongs on a running event loop. Raises TransportMissing.

    Unless it is one of several workers and *shares_port* with them, a second server there must fail at the start, not
    take half of the calls.
    """
    options = (*OPTIONS, ("grpc.so_reuseport", int(shares_port)))
    s = servicers
    members = (s.keys, s.authz, s.directory, s.keyspaces, s.alerts, s.webhooks, s.usage, s.audit, s.credits)
    guarded = {it.full_name: gate.guarded(member, it) for member, it in zip(members, SERVICES, strict=True)}
    if transport == "native":
        return _native({**guarded, health.SERVICE_NAME: _health_check(health_servicer)}, options)
    # Not maximum_concurrent_rpcs: grpcio gives back a place for each call that it refuses, and so refuses only half of
    # what is too much at first and soon nothing (1.78). The gate counts.
    server = grpc.aio.server(options=options)
    for name, handlers in guarded.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((*guarded, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _native(services: Mapping[str, Any], options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    try:
        from doorward_server.wire.native import native_server
    except ImportError:
        raise TransportMissing(
            "The native transport needs the package pygrpc-native: pip install 'doorward[server,native]', "
            "or leave out --transport and DOORWARD_TRANSPORT."
        ) from None
    return native_server(services, options)


def _health_check(servicer: health.aio.HealthServicer) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Return the unary half of grpc.health.v1."""
    request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    check = grpc.unary_unary_rpc_method_handler(servicer.Check, request.FromString, response.SerializeToString)
    return {"Check": check}


def bind(server: grpc.aio.Server, listen: str, tls: Tls | None) -> int:
    """Bind *server* to "host:port" and return the port. Raises BindFailed."""
    try:
        port = server.add_secure_port(listen, tls.credentials()) if tls else server.add_insecure_port(listen)
    except (RuntimeError, ValueError):
        port = 0
    if port == 0:
        why = "the port is taken, or the address is not this machine's"
        if tls:
            why += ", or certificate and private key cannot be read or do not belong together"
        raise BindFailed(f"Cannot listen on {listen}: {why}.")
    return port


async def set_health(servicer: health.aio.HealthServicer, serving: bool) -> None:
    """Say on grpc.health.v1, for the whole and for each service, whether calls should come here."""
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", *(service.full_name for service in SERVICES)):
        await servicer.set(name, status)
