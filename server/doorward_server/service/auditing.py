"""The audit log for those who may read it: listed, verified, its head told; and kept no longer than is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog

from doorward_server.core.audit import ChainHead, ChainReport, EventFilter, HeadFound, Link, StoredEvent
from doorward_server.core.errors import ChainIsBroken, InvalidField, PageTokenInvalid, StoreUnavailable
from doorward_server.core.fields import check_id, check_list, check_text
from doorward_server.core.model import DAY, Actor, Event, Instant
from doorward_server.core.verify import UnknownPepper
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.paging import PAGE_BYTES, make_token, page_size, read_token
from doorward_server.service.requests import check_there, own_or
from doorward_server.store import ChainBroken, Store

AT_ONCE = 100
"""Events that are read at a time: one may hold a whole keyspace file."""
LOOKS = 5
"""Statements of one call that look for events which a filter finds."""
PAGES = 20
"""Pages of the store that one call verifies: under a second."""
MANY = 1000
"""Organizations that are looked for at a time."""
RETENTION = Actor("operator", "retention")
T = TypeVar("T")
log = structlog.get_logger("doorward")


@dataclass(frozen=True, slots=True)
class Verified:
    """How far a chain is verified, and what is known by then."""

    verified_to: int
    report: ChainReport | None
    """None: go on with `token`."""
    found: HeadFound | None
    token: str


class Auditing:
    """Reads and verifies the audit log. Blocking: belongs on the management pool. Every method asks the guard first."""

    def __init__(self, store: Store, guard: Guard, clock: Clock) -> None:
        self._store = store
        self._guard = guard
        self._clock = clock

    def list_events(
        self, caller: Caller, organization: str, wanted: EventFilter, size: int, token: str, *, oldest_first: bool
    ) -> tuple[list[StoredEvent], str]:
        """Return a page of events, and the token for the next. Raises PageTokenInvalid, InvalidField.

        A page may be short, or empty, although there are more.
        """
        organization = self._require(caller, "events:list", organization)
        _check_filter(wanted)
        scope = f"events {organization} {oldest_first} {sorted(wanted.actions)} {replace(wanted, actions=frozenset())}"
        position = read_token(scope, token, (int,))
        after = None if position is None else _sequence(int(position[0]))
        left, room, events = page_size(size), PAGE_BYTES, list[StoredEvent]()
        for _ in range(LOOKS + left // AT_ONCE):
            asked = min(left, AT_ONCE)
            found = self._store.audit.list_some(organization, wanted, after, asked, oldest_first=oldest_first)
            for event in found.events:
                events.append(event)
                left, room = left - 1, room - len(repr(event.event).encode())
                if room <= 0:
                    return events, make_token(scope, [event.sequence])
            if found.looked_at is None:
                self._check_organization(caller, organization, unheard_of=not events and not token)
                return events, ""
            after = found.looked_at
            if not left:
                break
        return events, make_token(scope, [after or 0])

    def verify_chain(self, caller: Caller, organization: str, head: ChainHead | None, token: str) -> Verified:
        """Verify the next part of a chain, and look for *head* in it, which its file says is *organization*'s.

        Raises InvalidField (head), PageTokenInvalid, StoreUnavailable if this replica lacks a pepper.
        """
        organization = self._require(caller, "events:verify", organization)
        kept = None if head is None else self._kept(organization, head)
        scope = f"chain {organization} {kept and (kept.sequence, kept.hash)}"
        position = read_token(scope, token, (int, str))
        link = None if position is None else _link(int(position[0]), str(position[1]))
        for _ in range(PAGES):
            page = self._known(partial(self._store.audit.verify_page, organization, link, kept))
            link = page.link or link
            if page.report is not None:
                self._check_organization(caller, organization, unheard_of=page.report.length == 0)
                return Verified(link.sequence if link else 0, page.report, page.found, "")
        if link is None:
            raise RuntimeError("a page without a report has a link")
        return Verified(link.sequence, None, page.found, make_token(scope, [link.sequence, link.hash.hex()]))

    def get_head(self, caller: Caller, organization: str) -> ChainHead:
        """Return where the chain ends. Raises ChainIsBroken if its end does not hold, StoreUnavailable."""
        organization = self._require(caller, "events:verify", organization)
        try:
            head = self._known(partial(self._store.audit.find_head, organization, self._clock()))
        except ChainBroken as broken:
            raise ChainIsBroken(organization, broken.sequence) from None
        self._check_organization(caller, organization, unheard_of=head.sequence == 0)
        return head

    def _require(self, caller: Caller, permission: str, organization: str) -> str:
        organization = own_or(caller, organization)
        self._guard.require(caller, permission, f"organizations/{organization}/events")
        return organization

    def _check_organization(self, caller: Caller, organization: str, *, unheard_of: bool) -> None:
        """Raise NotFound for an organization that is not there and never was; a deleted one has its chain."""
        if unheard_of:
            check_there(self._store, caller, organization)

    def _kept(self, organization: str, head: ChainHead) -> Link:
        if head.organization != organization:
            raise InvalidField("head.organization", f"must be {organization!r}, whose chain is verified")
        if not self._store.audit.is_sealed(head):
            raise InvalidField(
                "head.seal", "is not of this head: the file was damaged or changed, or is not Doorward's"
            )
        return Link(head.sequence, head.hash)

    @staticmethod
    def _known(work: Callable[[], T]) -> T:
        try:
            return work()
        except UnknownPepper:
            raise StoreUnavailable(
                "This replica lacks a pepper that the audit log is sealed with. Give it the current pepper file."
            ) from None


class AuditRetention:
    """Prunes events that are older than is wanted. Blocking; one thread at a time."""

    def __init__(self, store: Store, days: int) -> None:
        """*days*: how long events are kept; 0: for ever."""
        self._store = store
        self._days = days
        self._closed = False

    def close(self) -> None:
        """End a sweep that is under way after the transaction that it is in. From any thread."""
        self._closed = True

    def sweep(self, now: Instant) -> int:
        """Remove what is too old at *now* from every chain that holds, and return how many events that were.

        Whole days are removed at a time, so that pruning, which is an event itself, makes few. A broken chain is
        evidence: it is left as it is, and logged. Raises StoreUnavailable: then some are gone, and the next sweep
        removes the rest.
        """
        before, removed, after = now // DAY * DAY - self._days * DAY, 0, ""
        while self._days and not self._closed and (found := self._store.audit.list_prunable(before, after, MANY)):
            for organization in found:
                removed += self._prune(organization, before, now)
            after = found[-1]
        return removed

    def _prune(self, organization: str, before: Instant, now: Instant) -> int:
        def event(first: Link, last: Link) -> Event:
            gone = {"first": first.sequence, "last": last.sequence, "last_hash": last.hash.hex()}
            return Event(organization, now, RETENTION, "events:prune", "events", organization, gone, None)

        removed = 0
        try:
            while not self._closed and (count := self._store.audit.prune(organization, before, event)):
                removed += count
        except (ChainBroken, UnknownPepper) as problem:
            log.error(
                "events are not pruned: the audit chain does not hold. Find out who changed it: doorward audit verify",
                organization=organization,
                why=str(problem),
            )
        return removed


def _check_filter(wanted: EventFilter) -> None:
    for field, text in (
        ("filter.key" if wanted.target_type == "key" else "filter.principal", wanted.target),
        ("filter.actor_key", wanted.actor_key),
        ("filter.actor_principal", wanted.actor_principal),
        ("filter.actor_principal", wanted.actor_organization),
        ("filter.keyspace", wanted.keyspace),
    ):
        if text:
            check_id(field, text)
    for action in check_list("filter.actions", wanted.actions):
        check_text("filter.actions", action, 100, required=True)


def _sequence(position: int) -> int:
    """Return a sequence that a list may have come to: tokens are not signed, so anybody can make one."""
    if position >= 2**62:
        raise PageTokenInvalid
    return position


def _link(sequence: int, digest: str) -> Link:
    try:
        return Link(_sequence(sequence), bytes.fromhex(digest))
    except ValueError:
        raise PageTokenInvalid from None
