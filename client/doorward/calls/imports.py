"""ImportKeys: any number of rows in, in streams that are not too long for a deadline, nor too short to be quick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from doorward.calls import Stream, Streams
from doorward.calls.keys import write_binding, write_ceiling
from doorward.calls.values import timestamp, words
from doorward.errors import Internal
from doorward.imports import ImportOutcome, ImportResult, ImportRow
from doorward.secret import reveal
from doorward.v1 import keys_pb2 as pb

OUTCOMES = words(ImportOutcome, pb.ImportOutcome, "IMPORT_OUTCOME_")

_FEWEST, _MOST, _MOST_DRY = 25, 500, 5_000
"""Rows of a stream. Slow hashes take a second each where their cost is high, and a stream that ran out of time would do
so again and again. A dry run hashes nothing, and finds only in one stream what two rows do to each other."""
_MOST_BYTES = 8 << 20
_LARGEST = 256 << 10
"""Bytes of a message that a server accepts: one above that would end its whole stream."""
_PATIENCE = 300.0
_QUICK, _SLOW = 1.0, 10.0
"""Seconds that a stream takes, below and above which the next one has twice or half as many rows."""

Entry = pb.ImportKeysRequest | ImportResult
"""A row to be sent; or what became of one that cannot be."""


def import_keys(
    rows: Iterable[ImportRow],
    *,
    keyspace: str,
    organization: str = "",
    dry_run: bool = False,
    progress: Callable[[list[ImportResult]], object] | None = None,
    timeout: float | None = None,
) -> Streams[pb.ImportKeysResponse, list[ImportResult]]:
    """Take in keys that another system handed out; return what became of each row, in their order.

    Rows are read and sent a few hundred at a time, and `progress` is called with the results of each such stream as
    they come. `timeout` is for one stream; 300 seconds at least, if not told otherwise. Nothing is tried again by
    itself: after a failure send all rows again, for those whose external id is in already are left alone. With
    `dry_run`, every row is checked and none kept; what rows more than 5,000 apart do to each other is not told then.
    """
    header = pb.ImportKeysRequest(header=pb.ImportHeader(organization=organization, keyspace=keyspace, dry_run=dry_run))
    left, size, begun = iter(rows), _MOST_DRY if dry_run else _FEWEST, None
    # Without any row there is still one stream: it tells whether they would be welcome.
    while (entries := _batch(left, size)) or begun is None:
        begun = time.monotonic()
        sent = [entry for entry in entries if isinstance(entry, pb.ImportKeysRequest)]
        yield Stream([header, *sent], pb.ImportKeysResponse, _reader(entries, progress), timeout, _PATIENCE)
        if not dry_run:
            size = _paced(size, time.monotonic() - begun)


def _paced(size: int, took: float) -> int:
    if took < _QUICK:
        return min(size * 2, _MOST)
    return max(size // 2, _FEWEST) if took > _SLOW else size


def _batch(rows: Iterator[ImportRow], size: int) -> list[Entry]:
    entries: list[Entry] = []
    room = _MOST_BYTES
    for row in rows:
        entries.append(entry := _entry(row))
        room -= entry.ByteSize() if isinstance(entry, pb.ImportKeysRequest) else 0
        if len(entries) >= size or room <= 0:
            break
    return entries


def _entry(row: ImportRow) -> Entry:
    request = pb.ImportKeysRequest(row=_row(row))
    if request.ByteSize() <= _LARGEST:
        return request
    what = f"The row is larger than {_LARGEST >> 10} KiB, which is all that can be sent of one."
    return ImportResult(row.external_id[:200], ImportOutcome.REJECTED, "", "INVALID_FIELD", what)


def _row(row: ImportRow) -> pb.ImportRow:
    made = pb.ImportRow(
        external_id=row.external_id,
        lookup=row.lookup,
        last4=row.last4,
        name=row.name,
        description=row.description,
        owner=row.owner,
        environment=row.environment,
        type=row.type,
        ceiling=write_ceiling(row.ceiling),
        scopes=row.scopes,
        bindings=map(write_binding, row.bindings),
        allowed_cidrs=row.allowed_cidrs,
        metadata=row.metadata,
        created_at=timestamp("created_at", row.created_at),
        expires_at=timestamp("expires_at", row.expires_at),
        api_version=row.api_version,
    )
    if row.text is not None:
        made.text = reveal(row.text)
    elif row.sha256 is not None:
        made.hash, made.hash_kind = row.sha256, pb.IMPORTED_HASH_SHA256
    elif row.bcrypt is not None:
        made.hash, made.hash_kind = row.bcrypt, pb.IMPORTED_HASH_BCRYPT
    return made


def _reader(
    entries: Sequence[Entry], progress: Callable[[list[ImportResult]], object] | None
) -> Callable[[pb.ImportKeysResponse], list[ImportResult]]:
    """Return what reads an answer: a result for each entry, in their order."""

    def read(answer: pb.ImportKeysResponse) -> list[ImportResult]:
        if len(answer.results) != sum(isinstance(entry, pb.ImportKeysRequest) for entry in entries):
            raise Internal("The answer has another number of results than there were rows.")
        told = map(_result, answer.results)
        results = [entry if isinstance(entry, ImportResult) else next(told) for entry in entries]
        if progress is not None and results:
            progress(results)
        return results

    return read


def _result(result: pb.ImportResult) -> ImportResult:
    return ImportResult(
        external_id=result.external_id,
        outcome=OUTCOMES.get(result.outcome, ImportOutcome.UNKNOWN),
        key_id=result.key_id,
        reason=result.reason,
        message=result.message,
    )
