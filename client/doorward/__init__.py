"""The client of Doorward: ask whether the holder of an API key may do something, and issue, watch and end keys.

from doorward import Client

with Client("127.0.0.1:50051", key) as doorward:
    decision = doorward.authorize(text, keyspace="aiia", action="findings:read", resource="findings/42")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from doorward.config import TLS
from doorward.errors import (
    Aborted,
    AlreadyExists,
    BuiltIn,
    CallerForbidden,
    CallerUnauthenticated,
    CallFailed,
    CountMismatch,
    DeadlineExceeded,
    Denied,
    DoorwardError,
    EtagMismatch,
    FailedPrecondition,
    GrantForbidden,
    Immutable,
    Internal,
    InvalidArgument,
    InvalidField,
    KeyIsExpired,
    KeyIsRevoked,
    KeyspaceInvalid,
    Misconfigured,
    NotFound,
    NotRecoverable,
    OrganizationIsDisabled,
    Overloaded,
    PageTokenInvalid,
    PermissionDenied,
    PrincipalIsDisabled,
    QuotaExceeded,
    RequestIdReused,
    ResourceExhausted,
    RevisionNotReached,
    StoreUnavailable,
    TooManyActiveKeys,
    Unauthenticated,
    Unavailable,
    UnknownReference,
)
from doorward.imports import ImportOutcome, ImportResult, ImportRow
from doorward.model import (
    AppliedKeyspace,
    ApplyOutcome,
    Binding,
    Ceiling,
    Changed,
    Decision,
    Ended,
    Group,
    HttpRequest,
    Identity,
    IssuedKey,
    Key,
    KeyBinding,
    KeySecret,
    Keyspace,
    KeyState,
    KeyWarning,
    Organization,
    Principal,
    PrincipalKind,
    Propagation,
    Question,
    Reason,
    RevokedKeys,
    Rule,
)
from doorward.secret import Secret

if TYPE_CHECKING:
    from doorward.client import AsyncClient, Client

__all__ = [
    "TLS",
    "Aborted",
    "AlreadyExists",
    "AppliedKeyspace",
    "ApplyOutcome",
    "AsyncClient",
    "Binding",
    "BuiltIn",
    "CallFailed",
    "CallerForbidden",
    "CallerUnauthenticated",
    "Ceiling",
    "Changed",
    "Client",
    "CountMismatch",
    "DeadlineExceeded",
    "Decision",
    "Denied",
    "DoorwardError",
    "Ended",
    "EtagMismatch",
    "FailedPrecondition",
    "GrantForbidden",
    "Group",
    "HttpRequest",
    "Identity",
    "Immutable",
    "ImportOutcome",
    "ImportResult",
    "ImportRow",
    "Internal",
    "InvalidArgument",
    "InvalidField",
    "IssuedKey",
    "Key",
    "KeyBinding",
    "KeyIsExpired",
    "KeyIsRevoked",
    "KeySecret",
    "KeyState",
    "KeyWarning",
    "Keyspace",
    "KeyspaceInvalid",
    "Misconfigured",
    "NotFound",
    "NotRecoverable",
    "Organization",
    "OrganizationIsDisabled",
    "Overloaded",
    "PageTokenInvalid",
    "PermissionDenied",
    "Principal",
    "PrincipalIsDisabled",
    "PrincipalKind",
    "Propagation",
    "Question",
    "QuotaExceeded",
    "Reason",
    "RequestIdReused",
    "ResourceExhausted",
    "RevisionNotReached",
    "RevokedKeys",
    "Rule",
    "Secret",
    "StoreUnavailable",
    "TooManyActiveKeys",
    "Unauthenticated",
    "Unavailable",
    "UnknownReference",
]


def __getattr__(name: str) -> object:
    # gRPC takes a quarter of a second to import, which `doorward --help` need not wait for.
    if name in ("AsyncClient", "Client"):
        from doorward import client

        return getattr(client, name)
    raise AttributeError(f"module 'doorward' has no attribute {name!r}")
