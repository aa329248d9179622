"""What can go wrong, as exceptions: the inverse of the server's one error table.

DoorwardError
├── Misconfigured                   the client cannot be built so; `problems` lists all of it
├── Denied                          `require` was not allowed; `decision` says why
└── CallFailed                      a call failed: no decision, no change (or, at a deadline, an unknown one)
    ├── InvalidArgument             the request is wrong; `field` names the place
    │   ├── InvalidField            a field breaks a rule
    │   ├── UnknownReference        a field names something that does not exist
    │   ├── PageTokenInvalid        not a token of this list
    │   ├── RequestIdReused         the request_id stands for another request
    │   └── KeyspaceInvalid         a keyspace file breaks its schema
    ├── Unauthenticated
    │   └── CallerUnauthenticated   Doorward does not accept the client's own key
    ├── PermissionDenied
    │   ├── CallerForbidden         the client's key may not do this
    │   └── GrantForbidden          it may not give this role away
    ├── NotFound                    no such thing, or deleted
    ├── AlreadyExists               the id is taken, for good
    ├── FailedPrecondition          not in this state
    │   ├── KeyIsRevoked
    │   ├── KeyIsExpired
    │   ├── OrganizationIsDisabled
    │   ├── PrincipalIsDisabled
    │   ├── BuiltIn                 a part of Doorward itself
    │   ├── Immutable               fixed from the first apply on
    │   ├── NotRecoverable          the text of this secret is not kept
    │   ├── CountMismatch           the filter finds another number of keys than was expected
    │   ├── ChainIsBroken           the audit log was changed behind Doorward's back
    │   ├── TooManyActiveKeys       the owner has as many active keys as the keyspace allows
    │   ├── GroupCycle              the group would be in itself
    │   ├── KeysStranded            a keyspace's change would take from keys what they hold
    │   ├── KeyspaceTestsFailed     a keyspace file's own tests fail
    │   └── RevisionNotReached      the store has not come as far as `consistency` asks
    ├── Aborted
    │   ├── EtagMismatch            somebody else changed it in between
    │   └── MayBeCharged            no answer, and credits may be gone for it
    ├── ResourceExhausted
    │   └── QuotaExceeded           a quota is used up
    ├── Unavailable                 no answer: neither a denial nor a consent. Try again
    │   ├── StoreUnavailable        the store could not be asked
    │   └── Overloaded              too much work
    ├── DeadlineExceeded            no answer in time; whether a change was made is unknown
    └── Internal                    a defect of Doorward; `metadata["request"]` finds it in its log

A class below a status is one `ErrorReason` of the contract. A failure without a known reason (a newer server, a proxy,
the network) is the class of its status, and a status without a class is `CallFailed` itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doorward.decision import Decision


class DoorwardError(Exception):
    """The root of all of them. No message and no attribute holds a secret."""


class Misconfigured(DoorwardError, ValueError):
    """The client cannot be built like this. `problems` holds everything that is wrong, not only the first thing."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "; ".join(self.problems)


class Denied(DoorwardError):
    """The answer to `require` was not ALLOW."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision)
        self.decision = decision

    def __str__(self) -> str:
        return f"{self.decision.reason}: {self.decision.message}"


class CallFailed(DoorwardError):
    """A call failed.

    `code` is the gRPC status by name, e.g. "NOT_FOUND"; `reason` the server's reason, e.g. "KEY_IS_REVOKED", or empty;
    `metadata` every value that the message mentions; `field` the place in the request that is at fault, or empty.
    """

    code: str = ""
    reason: str = ""

    def __init__(
        self, message: str, *, code: str = "", reason: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.reason = reason or self.reason
        self.metadata = dict(metadata or {})

    @property
    def field(self) -> str:
        """The place in the request that is at fault, e.g. "scopes[1]"; empty if it is none."""
        return self.metadata.get("field", "")


class InvalidArgument(CallFailed):
    """The request is wrong, whoever sends it and whatever the state; nothing was changed."""

    code = "INVALID_ARGUMENT"


class InvalidField(InvalidArgument):
    """A field of the request breaks a rule."""

    reason = "INVALID_FIELD"


class UnknownReference(InvalidArgument):
    """A field names a keyspace, role, action, environment, organization or principal that does not exist."""

    reason = "UNKNOWN_REFERENCE"


class PageTokenInvalid(InvalidArgument):
    """The page token is foreign, damaged, or belongs to another filter."""

    reason = "PAGE_TOKEN_INVALID"


class RequestIdReused(InvalidArgument):
    """The request_id stands for another request of this caller."""

    reason = "REQUEST_ID_REUSED"


class KeyspaceInvalid(InvalidArgument):
    """A keyspace file breaks a rule of its schema; `metadata["line"]` counts from 1."""

    reason = "KEYSPACE_INVALID"


class Unauthenticated(CallFailed):
    """Doorward does not know who calls."""

    code = "UNAUTHENTICATED"


class CallerUnauthenticated(Unauthenticated):
    """The client's own key is missing or does not hold; `metadata["decision"]` says why."""

    reason = "CALLER_UNAUTHENTICATED"


class PermissionDenied(CallFailed):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class CallerForbidden(PermissionDenied):
    """The caller may not do this, whether or not the thing exists; `metadata["permission"]` would be needed."""

    reason = "CALLER_FORBIDDEN"


class GrantForbidden(PermissionDenied):
    """The caller would hand out a role that it does not hold itself and may not grant."""

    reason = "GRANT_FORBIDDEN"


class NotFound(CallFailed):
    """There is no such thing, or it was deleted."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class AlreadyExists(CallFailed):
    """The id is taken, by something live or something deleted: ids are never used twice."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class FailedPrecondition(CallFailed):
    """Right, but not in this state."""

    code = "FAILED_PRECONDITION"


class KeyIsRevoked(FailedPrecondition):
    """Revocation is permanent."""

    reason = "KEY_IS_REVOKED"


class KeyIsExpired(FailedPrecondition):
    """The key is past its expiry; give it a later one first."""

    reason = "KEY_IS_EXPIRED"


class OrganizationIsDisabled(FailedPrecondition):
    """The organization is disabled."""

    reason = "ORGANIZATION_IS_DISABLED"


class PrincipalIsDisabled(FailedPrecondition):
    """The principal is disabled."""

    reason = "PRINCIPAL_IS_DISABLED"


class BuiltIn(FailedPrecondition):
    """The thing is part of Doorward itself and is not changed this way."""

    reason = "BUILT_IN"


class Immutable(FailedPrecondition):
    """A setting is fixed from the first apply on."""

    reason = "IMMUTABLE"


class NotRecoverable(FailedPrecondition):
    """The text is not kept: the keyspace is not recoverable, the key is revoked, or only a hash was imported."""

    reason = "NOT_RECOVERABLE"


class CountMismatch(FailedPrecondition):
    """The filter finds another number of keys; nothing was ended. `metadata` has what was `expected` and `found`."""

    reason = "COUNT_MISMATCH"


class ChainIsBroken(FailedPrecondition):
    """The audit log was changed behind Doorward's back. `metadata` has the `organization` and the `sequence`."""

    reason = "CHAIN_IS_BROKEN"


class TooManyActiveKeys(FailedPrecondition):
    """The owner has as many active keys as the keyspace allows; `metadata["limit"]` says how many."""

    reason = "TOO_MANY_ACTIVE_KEYS"


class GroupCycle(FailedPrecondition):
    """A group would be in itself; `metadata["path"]` is the way round."""

    reason = "GROUP_CYCLE"


class KeysStranded(FailedPrecondition):
    """Another version of a keyspace's file would take from keys or bindings what they hold, or what they are."""

    reason = "KEYS_STRANDED"


class KeyspaceTestsFailed(FailedPrecondition):
    """A test in a keyspace file comes out otherwise than it says; `metadata["line"]` counts from 1."""

    reason = "KEYSPACE_TESTS_FAILED"


class RevisionNotReached(FailedPrecondition):
    """The store has not come as far as `consistency` asks; `metadata["reached"]` says how far it is."""

    reason = "REVISION_NOT_REACHED"


class Aborted(CallFailed):
    """Something else got in between."""

    code = "ABORTED"


class EtagMismatch(Aborted):
    """Somebody else changed it since it was read: read it again, then decide again."""

    reason = "ETAG_MISMATCH"


class MayBeCharged(Aborted):
    """Credits may be gone for a call that got no answer; trying it again may take them again."""

    reason = "MAY_BE_CHARGED"


class ResourceExhausted(CallFailed):
    """More than is allowed."""

    code = "RESOURCE_EXHAUSTED"


class QuotaExceeded(ResourceExhausted):
    """A quota is used up; `metadata` has its name and limit."""

    reason = "QUOTA_EXCEEDED"


class Unavailable(CallFailed):
    """No answer: says nothing about the key, so treat it neither as a denial nor as consent. Try again."""

    code = "UNAVAILABLE"


class StoreUnavailable(Unavailable):
    """The store could not be asked."""

    reason = "STORE_UNAVAILABLE"


class Overloaded(Unavailable):
    """More work waits than can be done in time."""

    reason = "OVERLOADED"


class DeadlineExceeded(CallFailed):
    """No answer in time. Whether a change was made is unknown."""

    code = "DEADLINE_EXCEEDED"


class Internal(CallFailed):
    """A defect of Doorward; the log entry with the same `metadata["request"]` has the details."""

    code = "INTERNAL"
    reason = "INTERNAL"


BY_REASON: Mapping[str, type[CallFailed]] = {
    kind.reason: kind
    for kind in (
        InvalidField, UnknownReference, PageTokenInvalid, RequestIdReused, KeyspaceInvalid, CallerUnauthenticated,
        CallerForbidden, GrantForbidden, NotFound, AlreadyExists, KeyIsRevoked, KeyIsExpired, OrganizationIsDisabled,
        PrincipalIsDisabled, BuiltIn, Immutable, NotRecoverable, CountMismatch, ChainIsBroken, TooManyActiveKeys,
        GroupCycle, KeysStranded, KeyspaceTestsFailed, RevisionNotReached, EtagMismatch, QuotaExceeded,
        StoreUnavailable, MayBeCharged, Overloaded, Internal,
    )
}  # fmt: skip
"""One class for each ErrorReason of the contract (without its prefix), and one reason for each class."""

BY_CODE: Mapping[str, type[CallFailed]] = {
    kind.code: kind
    for kind in (
        InvalidArgument, Unauthenticated, PermissionDenied, NotFound, AlreadyExists, FailedPrecondition, Aborted,
        ResourceExhausted, Unavailable, DeadlineExceeded, Internal,
    )
}  # fmt: skip
"""The class of a failure whose reason is missing or unknown, by the name of its gRPC status."""

CODES: Mapping[int, str] = dict(
    enumerate(
        (
            "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
            "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
            "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
        )
    )
)  # fmt: skip
"""The names of gRPC's status codes, as numbers have them."""


def failure(code: str, message: str, reason: str, metadata: Mapping[str, str]) -> CallFailed:
    """Return the exception for a failed call: of its reason, else of its code."""
    kind = BY_REASON.get(reason) or BY_CODE.get(code, CallFailed)
    return kind(message, code=code, reason=reason, metadata=metadata)
