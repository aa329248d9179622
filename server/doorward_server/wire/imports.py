"""The stream of ImportKeys: a header, then rows, read into batches; and its results."""

from __future__ import annotations

from collections.abc import AsyncIterator

from doorward.v1 import keys_pb2 as pb
from doorward_server.core.errors import DoorwardError, InvalidField
from doorward_server.core.fields import check_text
from doorward_server.core.imported import ForeignHash, HashKind
from doorward_server.core.keytext import SecretText
from doorward_server.service.importing import CHUNK, Result, Row, Unreadable
from doorward_server.service.settings import NewKey
from doorward_server.wire.convert import (
    CEILINGS,
    from_enum,
    from_key_bindings,
    from_metadata,
    from_texts,
    from_timestamp,
)

_MESSAGE = 300
"""Characters of a result's message: ten thousand of them fit into an answer of the usual 4 MiB."""
_KINDS = {kind: pb.ImportedHash.Value(f"IMPORTED_HASH_{kind}") for kind in HashKind}


async def read_header(requests: AsyncIterator[pb.ImportKeysRequest]) -> pb.ImportHeader:
    """Return the first message. Raises InvalidField if it is no header."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("message") != "header":
        raise InvalidField("header", "is required as the first message")
    return first.header


async def read_batches(requests: AsyncIterator[pb.ImportKeysRequest]) -> AsyncIterator[list[Row | Unreadable]]:
    """Return the rows in batches of at most `CHUNK`. Raises InvalidField."""
    batch: list[Row | Unreadable] = []
    async for request in requests:
        if request.WhichOneof("message") != "row":
            raise InvalidField("header", "must come first, and only once; each further message is a row")
        batch.append(_row(request.row))
        if len(batch) == CHUNK:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(row: pb.ImportRow) -> Row | Unreadable:
    try:
        return Row(
            check_text("external_id", row.external_id, 200, required=True),
            _proof(row),
            _settings(row),
            from_timestamp("created_at", row, "created_at"),
            from_timestamp("expires_at", row, "expires_at"),
        )
    except DoorwardError as problem:
        return Unreadable(row.external_id[:200], problem)


def _proof(row: pb.ImportRow) -> SecretText | ForeignHash | None:
    match row.WhichOneof("proof"):
        case "text":
            return SecretText(row.text)
        case "hash":
            kind = from_enum("hash_kind", row.hash_kind, _KINDS, None)
            if kind is None:
                raise InvalidField("hash_kind", f"is required with a hash: {', '.join(_KINDS)}")
            return ForeignHash(kind, SecretText(row.hash), row.lookup, row.last4)
        case _:
            return None


def _settings(row: pb.ImportRow) -> NewKey:
    return NewKey(
        organization="",
        keyspace="",
        owner=row.owner,
        name=row.name,
        description=row.description,
        environment=row.environment,
        type=row.type,
        ceiling=from_enum("ceiling", row.ceiling, CEILINGS, None),
        scopes=from_texts("scopes", row.scopes),
        bindings=from_key_bindings(row.bindings),
        allowed_cidrs=from_texts("allowed_cidrs", row.allowed_cidrs),
        metadata=from_metadata(row.metadata),
        not_before=None,
        expiry=None,
        api_version=row.api_version,
    )


def to_result(result: Result) -> pb.ImportResult:
    """Return what became of a row, for a caller."""
    problem = result.problem
    return pb.ImportResult(
        external_id=result.external_id[:200],
        outcome=pb.ImportOutcome.Value(f"IMPORT_OUTCOME_{result.outcome}"),
        key_id=result.key,
        reason=problem.reason if problem else "",
        message=problem.message[:_MESSAGE] if problem else "",
    )
