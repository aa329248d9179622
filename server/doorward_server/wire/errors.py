"""The one table from what went wrong to how it looks on the wire. `doorward.errors` in the client holds its inverse."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from doorward_server.core import errors
from doorward_server.core.errors import DoorwardError

DOMAIN = "doorward"
MAX_MESSAGE = 800
MAX_METADATA = 512
"""Bytes. Clients take 8 KiB of trailers and call the rest a broken call; a message is in them three times."""

STATUS: dict[type[DoorwardError], StatusCode] = {
    errors.InvalidField: StatusCode.INVALID_ARGUMENT,
    errors.UnknownReference: StatusCode.INVALID_ARGUMENT,
    errors.PageTokenInvalid: StatusCode.INVALID_ARGUMENT,
    errors.RequestIdReused: StatusCode.INVALID_ARGUMENT,
    errors.KeyspaceInvalid: StatusCode.INVALID_ARGUMENT,
    errors.CallerUnauthenticated: StatusCode.UNAUTHENTICATED,
    errors.CallerForbidden: StatusCode.PERMISSION_DENIED,
    errors.GrantForbidden: StatusCode.PERMISSION_DENIED,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.KeyIsRevoked: StatusCode.FAILED_PRECONDITION,
    errors.KeyIsExpired: StatusCode.FAILED_PRECONDITION,
    errors.OrganizationIsDisabled: StatusCode.FAILED_PRECONDITION,
    errors.PrincipalIsDisabled: StatusCode.FAILED_PRECONDITION,
    errors.BuiltIn: StatusCode.FAILED_PRECONDITION,
    errors.Immutable: StatusCode.FAILED_PRECONDITION,
    errors.NotRecoverable: StatusCode.FAILED_PRECONDITION,
    errors.CountMismatch: StatusCode.FAILED_PRECONDITION,
    errors.ChainIsBroken: StatusCode.FAILED_PRECONDITION,
    errors.TooManyActiveKeys: StatusCode.FAILED_PRECONDITION,
    errors.GroupCycle: StatusCode.FAILED_PRECONDITION,
    errors.KeysStranded: StatusCode.FAILED_PRECONDITION,
    errors.KeyspaceTestsFailed: StatusCode.FAILED_PRECONDITION,
    errors.RevisionNotReached: StatusCode.FAILED_PRECONDITION,
    errors.EtagMismatch: StatusCode.ABORTED,
    errors.QuotaExceeded: StatusCode.RESOURCE_EXHAUSTED,
    errors.StoreUnavailable: StatusCode.UNAVAILABLE,
    errors.MayBeCharged: StatusCode.ABORTED,  # gRPC itself tries what is UNAVAILABLE again
    errors.Overloaded: StatusCode.UNAVAILABLE,
    errors.Internal: StatusCode.INTERNAL,
}


def code_of(error: DoorwardError) -> StatusCode:
    """Return the status code of *error*."""
    return STATUS[type(error)]


def message_of(error: DoorwardError) -> str:
    """Return what is wrong in words, cut to what trailers can hold."""
    return _shortened(error.message, MAX_MESSAGE)


def metadata_of(error: DoorwardError) -> dict[str, str]:
    """Return the values that the message mentions, cut likewise."""
    return {name: _shortened(value, MAX_METADATA) for name, value in error.metadata.items()}


def details_of(error: DoorwardError) -> bytes:
    """Return the serialized google.rpc.Status: ErrorInfo, and BadRequest where a field is at fault."""
    metadata, message = metadata_of(error), message_of(error)
    packed = [_pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))]
    code = code_of(error)
    if code is StatusCode.INVALID_ARGUMENT:
        violation = BadRequest.FieldViolation(field=metadata.get("field", ""), description=message, reason=error.reason)
        packed.append(_pack(BadRequest(field_violations=[violation])))
    if isinstance(error, errors.Overloaded):
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(100)
        packed.append(_pack(retry))
    status = Status(code=Code.Value(code.name), message=message, details=packed)
    return bytes(status.SerializeToString())


def _pack(message: ErrorInfo | BadRequest | RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def _shortened(text: str, most: int) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most:
        return text
    return encoded[: most - len("…".encode())].decode("utf-8", "ignore") + "…"
