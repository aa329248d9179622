"""Reading, verifying and pruning the audit log. How its events are chained: `audit`.

A chain is verified in pages, each one snapshot, so that no transaction is long however many events there are; a page
says where the next one goes on. The verdict is about the chain as it is with the last page: what somebody changes in a
part that was read already shows the next time.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from peewee import fn

from doorward_server.core.audit import ChainHead, ChainReport, EventFilter, HeadFound, Link, StoredEvent
from doorward_server.core.model import Event, Instant
from doorward_server.core.verify import UnknownPepper

from .audit import GENESIS, Seal, to_stored
from .rows import BINDING, CHECKPOINT, EVENT, KEY, PEPPER, TALLY, Row
from .transaction import Transaction, Transactions
from .values import ChainBroken, ChainPage

PAGE = 1000
"""Events that are verified from one snapshot."""
PRUNED = 500
"""Events that one transaction prunes, as others want to write to the organization, too."""
LOOKED_AT = 10_000
"""Events that one statement looks through for those that a filter finds; it ends in time on any disk."""
_CHECKPOINT, _HEAD = "checkpoint", "head"
_PRUNABLE = """
SELECT t.organization FROM tally AS t WHERE t.organization > ? AND (
  SELECT e.at FROM event AS e WHERE e.organization = t.organization ORDER BY e.sequence LIMIT 1
) < ? ORDER BY t.organization LIMIT ?
"""
MakeEvent = Callable[[Link, Link], Event]


@dataclass(frozen=True, slots=True)
class Found:
    """Events that a filter found, in order, and the sequence that was looked at last; None: there are no more."""

    events: list[StoredEvent]
    looked_at: int | None


class AuditStore:
    """The part of `Store` that knows the audit log; like there, every public method is one transaction."""

    def __init__(self, transactions: Transactions, seal: Seal) -> None:
        self._write, self._read, self._look = transactions.write, transactions.read, transactions.look
        self._seal = seal

    def list_some(
        self, organization: str, filter: EventFilter, after: int | None, limit: int, *, oldest_first: bool
    ) -> Found:
        """Return up to *limit* of the organization's events that *filter* finds, behind the sequence *after*.

        Fewer, or none, may come although there are more: one call looks at `LOOKED_AT` events at most, unless the
        filter names what they are about, for which there is an index.
        """
        return self._read(lambda tx: _list_some(tx, organization, filter, after, limit, oldest_first))

    def find_head(self, organization: str, now: Instant) -> ChainHead:
        """Return where the organization's chain ends, sealed, as of *now*. Raises ChainBroken if its end does not hold.

        An organization that has no events, or is none, has the head of an empty chain.
        """
        return self._read(lambda tx: self._head(tx, organization, now))

    def is_sealed(self, head: ChainHead) -> bool:
        """Tell whether *head* is one that `find_head` gave, once, of whatever organization it says."""
        try:
            seal = self._seal.mac(_HEAD, head.pepper, _sealed_of(head))
        except UnknownPepper:
            return False
        return hmac.compare_digest(seal, head.seal)

    def verify_page(self, organization: str, after: Link | None, head: Link | None = None) -> ChainPage:
        """Verify up to `PAGE` events behind *after* (None: from the chain's beginning), and look for *head* in it.

        Raises UnknownPepper if this process lacks one that the store knows.
        """
        return self._read(lambda tx: self._verify_page(tx, organization, after, head))

    def verify(self, organization: str) -> ChainReport:
        """Verify all of a chain, page by page: many transactions."""
        link: Link | None = None
        while True:
            page = self.verify_page(organization, link)
            if page.report is not None:
                return page.report
            link = page.link

    def list_prunable(self, before: Instant, after: str, limit: int) -> list[str]:
        """Return organizations, by id behind *after*, whose oldest event is from before that instant."""
        return [organization for (organization,) in self._look(lambda tx: tx.ask(_PRUNABLE, after, before, limit))]

    def prune(self, organization: str, before: Instant, event: MakeEvent) -> int:
        """Remove the oldest events, up to `PRUNED`, that are from before that instant; return how many: call until 0.

        The rest of the chain begins behind a sealed checkpoint. What is removed is verified first, and what was
        removed is in the chain, as the *event* that is made of its first and its last link, in the same transaction.
        Raises ChainBroken, and removes nothing, where the chain does not hold.
        """
        return self._write(lambda tx: self._prune(tx, organization, before, event)).value

    # --- verifying ----------------------------------------------------------------------------------------------------

    def _verify_page(self, tx: Transaction, organization: str, after: Link | None, head: Link | None) -> ChainPage:
        length, end = _counted(tx, organization)
        try:
            start = self._start(tx, organization)
            link = max(start, after, key=lambda it: it.sequence) if after else start
            rows = rows_after(tx, organization, link.sequence, PAGE)
            link = self._followed(tx, link, rows)
        except ChainBroken as broken:
            return ChainPage(None, ChainReport(False, length, end, broken.sequence), None)
        found = None if head is None else _find(tx, organization, start, head, length)
        if len(rows) == PAGE:
            return ChainPage(link, None, found)
        whole = link.sequence == length and link.hash == end
        at = None if whole else min(link.sequence, length) + 1
        return ChainPage(link, ChainReport(whole, length, end, at, start.sequence + 1), found)

    def _start(self, tx: Transaction, organization: str) -> Link:
        """Return what the chain's first event follows. Raises ChainBroken: forged, or there are events before it."""
        query = CHECKPOINT.select(*CHECKPOINT.all_columns()).where(CHECKPOINT.organization == organization)
        row = tx.row(query)
        start = Link(0, GENESIS)
        if row is not None:
            _, sequence, digest, at, pepper, seal = row
            start = Link(sequence, bytes(digest))
            expected = self._mac(tx, pepper, organization, start, at)
            if expected is None or not hmac.compare_digest(expected, bytes(seal)):
                raise ChainBroken(sequence)
        early = (EVENT.organization == organization) & (EVENT.sequence <= start.sequence)
        stray = tx.row(EVENT.select(EVENT.sequence).where(early).order_by(EVENT.sequence).limit(1))
        if stray is not None:
            raise ChainBroken(stray[0])
        return start

    def _mac(self, tx: Transaction, pepper: int, organization: str, link: Link, at: Instant) -> bytes | None:
        try:
            return self._seal.mac(_CHECKPOINT, pepper, (organization, link.sequence, link.hash.hex(), at, pepper))
        except UnknownPepper:
            _raise_if_known(tx, pepper)
            return None

    def _followed(self, tx: Transaction, link: Link, rows: Iterable[Row]) -> Link:
        """Return the last of *rows*, if each follows the one before. Raises ChainBroken."""
        for *row, stored in rows:
            sequence, pepper = link.sequence + 1, row[-1]
            try:
                whole = row[1] == sequence and hmac.compare_digest(self._seal.hash(link.hash, tuple(row)), stored)
            except UnknownPepper:
                _raise_if_known(tx, pepper)
                whole = False
            if not whole:
                raise ChainBroken(sequence)
            link = Link(sequence, bytes(stored))
        return link

    def _head(self, tx: Transaction, organization: str, now: Instant) -> ChainHead:
        length, end = _counted(tx, organization)
        start = self._start(tx, organization)
        mine = EVENT.organization == organization
        last = tx.rows(EVENT.select(*EVENT.all_columns()).where(mine).order_by(EVENT.sequence.desc()).limit(2))[::-1]
        if len(last) == 2:
            start = Link(last[0][1], bytes(last[0][-1]))
            last = last[1:]
        if self._followed(tx, start, last) != Link(length, end):
            raise ChainBroken(length)
        head = ChainHead(organization, length, end, now, self._seal.pepper(), b"")
        return ChainHead(
            organization, length, end, now, head.pepper, self._seal.mac(_HEAD, head.pepper, _sealed_of(head))
        )

    # --- pruning ------------------------------------------------------------------------------------------------------

    def _prune(self, tx: Transaction, organization: str, before: Instant, event: MakeEvent) -> int:
        tx.tally(organization)
        start = self._start(tx, organization)
        rows = list(takewhile(lambda row: row[2] < before, rows_after(tx, organization, start.sequence, PRUNED)))
        if not rows:
            return 0
        last = self._followed(tx, start, rows)
        told = event(Link(start.sequence + 1, bytes(rows[0][-1])), last)
        tx.append(told)
        self._keep_checkpoint(tx, organization, last, told.at)
        tx.run(EVENT.delete().where((EVENT.organization == organization) & (EVENT.sequence <= last.sequence)))
        return len(rows)

    def _keep_checkpoint(self, tx: Transaction, organization: str, link: Link, at: Instant) -> None:
        pepper = self._seal.pepper()
        seal = self._seal.mac(_CHECKPOINT, pepper, (organization, link.sequence, link.hash.hex(), at, pepper))
        tx.run(CHECKPOINT.delete().where(CHECKPOINT.organization == organization))
        row = (organization, link.sequence, link.hash, at, pepper, seal)
        tx.run(CHECKPOINT.insert(dict(zip(CHECKPOINT.names, row, strict=True))))


def _raise_if_known(tx: Transaction, pepper: int) -> None:
    """Raise UnknownPepper for a version that the store has: then this process, not the chain, is at fault."""
    if tx.row(PEPPER.select(PEPPER.version).where(PEPPER.version == pepper)) is not None:
        raise UnknownPepper(f"pepper version {pepper}")


def _sealed_of(head: ChainHead) -> tuple[str | int, ...]:
    return head.organization, head.sequence, head.hash.hex(), head.at, head.pepper


def _counted(tx: Transaction, organization: str) -> tuple[int, bytes]:
    row = tx.row(TALLY.select(TALLY.events, TALLY.head).where(TALLY.organization == organization))
    return (row[0], bytes(row[1])) if row else (0, GENESIS)


def _find(tx: Transaction, organization: str, start: Link, head: Link, length: int) -> HeadFound:
    """Tell whether *head* is in the chain, which is verified by itself."""
    if head.sequence < start.sequence:
        return HeadFound.PRUNED
    if head.sequence == start.sequence:
        return HeadFound.IN_CHAIN if head.hash == start.hash else HeadFound.NOT_IN_CHAIN
    here = (EVENT.organization == organization) & (EVENT.sequence == head.sequence)
    row = tx.row(EVENT.select(EVENT.hash).where(here))
    known = row is not None and head.sequence <= length and bytes(row[0]) == head.hash
    return HeadFound.IN_CHAIN if known else HeadFound.NOT_IN_CHAIN


def rows_after(tx: Transaction, organization: str, after: int, limit: int) -> list[Row]:
    """Return the rows of the organization's events behind the sequence *after*, in order."""
    query = EVENT.select(*EVENT.all_columns()).where((EVENT.organization == organization) & (EVENT.sequence > after))
    return tx.rows(query.order_by(EVENT.sequence).limit(limit))


# --- listing ----------------------------------------------------------------------------------------------------------


def _list_some(
    tx: Transaction, organization: str, filter: EventFilter, after: int | None, limit: int, oldest_first: bool
) -> Found:
    mine, order = EVENT.organization == organization, EVENT.sequence
    if after is None:
        end = tx.row(EVENT.select(order).where(mine).order_by(order if oldest_first else order.desc()).limit(1))
        if end is None:
            return Found([], None)
        after = end[0] - 1 if oldest_first else end[0] + 1
    indexed = bool(filter.target)
    until = None if indexed else after + (LOOKED_AT if oldest_first else -LOOKED_AT)
    within = order > after if oldest_first else order < after
    if until is not None:
        within &= order <= until if oldest_first else order >= until
    query = EVENT.select(*EVENT.all_columns()).where(mine & within)
    for condition in _conditions(tx, organization, filter):
        query = query.where(condition)
    rows = tx.rows(query.order_by(order if oldest_first else order.desc()).limit(limit))
    events = [to_stored(row) for row in rows]
    if len(rows) == limit:
        return Found(events, rows[-1][1])
    if until is None:
        return Found(events, None)
    beyond = mine & (order > until if oldest_first else order < until)
    return Found(events, until if tx.row(EVENT.select(order).where(beyond).limit(1)) else None)


def _conditions(tx: Transaction, organization: str, filter: EventFilter) -> Iterable[Any]:
    if filter.target:
        yield EVENT.target == filter.target
    if filter.target_type:
        yield EVENT.target_type == filter.target_type
    if filter.actor_key:
        yield EVENT.actor_key == filter.actor_key
    if filter.actor_principal:
        theirs = f"{filter.actor_organization or organization}/{filter.actor_principal}"
        own = EVENT.actor_principal == filter.actor_principal
        own &= EVENT.actor_organization == (filter.actor_organization or organization)
        yield own | (EVENT.acting_for == theirs)
    if filter.actions:
        yield EVENT.action.in_(sorted(filter.actions))
    if filter.since is not None:
        yield EVENT.at >= filter.since
    if filter.before is not None:
        yield EVENT.at < filter.before
    if filter.keyspace:
        yield _in_keyspace(tx, organization, filter.keyspace)


def _in_keyspace(tx: Transaction, organization: str, keyspace: str) -> Any:
    """Return the condition that an event is about a keyspace, or about a thing that is in it.

    Keys stay, so theirs is looked up. A binding is looked up, too; of one that is gone, only the events of its
    creation and its end name it.
    """
    named = f'"keyspace":"{keyspace}"'  # as `to_json` writes it; inside a text the quotes would have backslashes
    keys = KEY.select(KEY.id).where((KEY.organization == organization) & (KEY.keyspace == keyspace))
    bindings = BINDING.select(BINDING.id).where((BINDING.organization == organization) & (BINDING.keyspace == keyspace))
    contains, of = tx.dialect.contains, EVENT.target_type
    named_in = contains(EVENT.before, named) | contains(EVENT.after, named)
    return (
        (of.in_(["keyspace", "relations"]) & (EVENT.target == keyspace))
        | ((of == "key") & EVENT.target.in_(keys))
        | ((of == "binding") & (EVENT.target.in_(bindings) | named_in))
        | (of.in_(["resource", "alert-rule"]) & (fn.SUBSTR(EVENT.target, 1, len(keyspace) + 1) == f"{keyspace}/"))
    )
