"""Reads why a call failed out of its trailing metadata.

The messages of google.rpc (Status, ErrorInfo, BadRequest) are described here once more, as far as Doorward uses them,
so that callers need not install googleapis-common-protos. They are the same on the wire; because they live in a
descriptor pool of their own, under names of their own, they cannot clash with the real ones.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

from doorward.errors import CallFailed, failure

DETAILS = "grpc-status-details-bin"
"""The trailing metadata in which gRPC carries a google.rpc.Status."""
DOMAIN = "doorward"

_ONE, _MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
_TEXT, _BYTES, _MESSAGE = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_MESSAGE,
)
# message: field: number, label, type, type name. `details` are Any, left encoded; a map is a list of entries.
_MESSAGES: dict[str, dict[str, tuple[int, Any, Any, str | None]]] = {
    "Status": {"details": (3, _MANY, _BYTES, None)},
    "ErrorInfo": {
        "reason": (1, _ONE, _TEXT, None),
        "domain": (2, _ONE, _TEXT, None),
        "metadata": (3, _MANY, _MESSAGE, ".doorward.status.Entry"),
    },
    "Entry": {"key": (1, _ONE, _TEXT, None), "value": (2, _ONE, _TEXT, None)},
    "BadRequest": {"field_violations": (1, _MANY, _MESSAGE, ".doorward.status.FieldViolation")},
    "FieldViolation": {"field": (1, _ONE, _TEXT, None), "description": (2, _ONE, _TEXT, None)},
}


def _build() -> dict[str, Any]:
    file = FileDescriptorProto(name="doorward/status.proto", package="doorward.status", syntax="proto3")
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for field, (number, label, kind, name) in fields.items():
            made.field.add(name=field, number=number, label=label, type=kind, type_name=name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"doorward.status.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _build()


def read(error: grpc.RpcError) -> CallFailed:
    """Return what a failed call, sync or async, means to the caller. Holds no reference to the call itself."""
    code: str = error.code().name
    trailing: Any = error.trailing_metadata() or ()
    reason, metadata = _reason_of(next((value for name, value in trailing if name == DETAILS), b""))
    return failure(code, error.details() or code, reason, metadata)


def _reason_of(details: bytes) -> tuple[str, dict[str, str]]:
    """Return the ErrorInfo's reason and metadata; where it names no field, the first violation of a BadRequest does."""
    reason, metadata, violated = "", {}, {}
    try:
        for detail in map(any_pb2.Any.FromString, _CLASSES["Status"].FromString(details).details):
            match detail.type_url.rpartition("/")[2]:
                case "google.rpc.ErrorInfo":
                    info = _CLASSES["ErrorInfo"].FromString(detail.value)
                    if info.domain == DOMAIN:
                        reason, metadata = info.reason, {entry.key: entry.value for entry in info.metadata}
                case "google.rpc.BadRequest":
                    for violation in _CLASSES["BadRequest"].FromString(detail.value).field_violations[:1]:
                        violated = {"field": violation.field}
    except DecodeError:
        return "", {}
    return reason, violated | metadata
