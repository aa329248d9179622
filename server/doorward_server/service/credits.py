"""Seeing to balances: looked at, set, and added to. Calls are charged by `debiting`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from doorward_server.core.credits import MOST, Account, Holder, Terms, opened
from doorward_server.core.errors import InvalidField, NotFound
from doorward_server.core.fields import check_id, check_text
from doorward_server.core.limits import Per
from doorward_server.core.model import Actor, Event, Instant
from doorward_server.service.catalog import Catalog
from doorward_server.service.changes import event
from doorward_server.service.guard import Caller, Clock, Guard
from doorward_server.service.paging import make_token, page_size, read_token
from doorward_server.service.requests import Repeat, check_there, own_or, replay_of
from doorward_server.store import Store

NOTE = 500
"""Characters."""


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose balance a request is about: that to which a key is charged, an owner's, or else the organization's."""

    organization: str
    keyspace: str
    key: str = ""
    owner: str = ""


class Balance(NamedTuple):
    """An account as it is now."""

    holder: Holder
    account: Account
    opened: bool = True


class Setting(NamedTuple):
    """What of an account is to be set; None: it stays."""

    balance: int | None
    refill: int | None
    default_refill: bool
    """Whether refills are to give what the keyspace says again."""


class Credits:
    """Sees to balances. Blocking: belongs on the management pool.

    Every method asks the guard first, and raises CallerForbidden before it tells whether the thing exists. Raises
    InvalidField, NotFound, and UnknownReference (keyspace).
    """

    def __init__(self, store: Store, catalog: Catalog, guard: Guard, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._guard = guard
        self._clock = clock

    def get(self, caller: Caller, whose: Whose) -> Balance:
        """Return an account; one that was not opened yet as it would be now."""
        _, holder, terms = self._find(caller, "credits:get", whose)
        account = self._store.credits.find(holder)
        return _balance(holder, account, terms, self._store.credits.now(self._clock))

    def list(
        self, caller: Caller, organization: str, keyspace: str, size: int, token: str
    ) -> tuple[Sequence[Balance], str]:
        """Return a page of the accounts that were opened. Raises PageTokenInvalid."""
        organization = own_or(caller, organization)
        check_id("keyspace", keyspace, "keyspace")
        self._may(caller, "credits:list", organization, keyspace)
        check_there(self._store, caller, organization)
        terms, limit = self._terms(keyspace, "keyspace"), page_size(size)
        scope, now = f"credits {organization} {keyspace}", self._store.credits.now(self._clock)
        start = read_token(scope, token, (str,))
        rows = self._store.credits.list_some(organization, keyspace, str(start[0]) if start else "", limit + 1)
        shown = [_balance(holder, account, terms, now) for holder, account in rows[:limit]]
        return shown, make_token(scope, [rows[limit - 1][0].whom]) if len(rows) > limit else ""

    def set(self, caller: Caller, whose: Whose, wanted: Setting) -> Balance:
        """Set what *wanted* names. A balance that is set begins a new period."""
        actor, holder, terms = self._find(caller, "credits:set", whose)
        _check(wanted, terms)

        def change(before: Account, now: Instant) -> tuple[Account, Event]:
            after = before
            if wanted.balance is not None:
                after = replace(after, balance=wanted.balance, since=max(now, before.since))
            if wanted.refill is not None or wanted.default_refill:
                after = replace(after, own=wanted.refill)
            return after, _told(actor, "credits:set", holder, before, after, now)

        written = self._store.credits.update(holder, terms, change, self._clock)
        return Balance(holder, written.value)

    def add(self, caller: Caller, whose: Whose, amount: int, note: str, repeat: Repeat) -> tuple[Balance, bool]:
        """Add *amount*, which may be negative; return the account, and whether it is a repeat, which adds nothing.

        Raises RequestIdReused.
        """
        actor, holder, terms = self._find(caller, "credits:add", whose)
        if not 0 < abs(amount) <= MOST:
            raise InvalidField("amount", f"must be 1 to {MOST:,}, or as much below zero")
        check_text("note", note, NOTE)
        replay = replay_of(caller, "AddCredits", repeat, self._clock())

        def change(before: Account, now: Instant) -> tuple[Account, Event]:
            after = before.add(amount)
            return after, _told(actor, "credits:add", holder, before, after, now, note)

        written = self._store.credits.update(holder, terms, change, self._clock, replay)
        return Balance(holder, written.value), written.replayed

    def _find(self, caller: Caller, permission: str, whose: Whose) -> tuple[Actor, Holder, Terms]:
        """Return who acts, on whose account, and its terms, once the guard has allowed it."""
        for name, id, kind in (("key_id", whose.key, ""), ("owner", whose.owner, "principal")):
            if id:
                check_id(f"holder.{name}", id, kind)
        if whose.key and whose.owner:
            raise InvalidField("holder.owner", "goes without key_id, whose account is one already")
        check_id("holder.keyspace", whose.keyspace, "keyspace")
        organization = own_or(caller, whose.organization)
        known = self._store.usage.find_key(organization, whose.key) if whose.key else None  # a deleted one, too
        owner = whose.owner or (known[1] if known is not None else None)
        keyspace = self._catalog.find(whose.keyspace)
        terms = keyspace.sections.credits if keyspace is not None else None
        if terms is None or terms.per is Per.ORGANIZATION:
            owner = None  # what all of an organization share is nobody's own
        actor = self._may(caller, permission, organization, whose.keyspace, owner)
        terms = self._terms(whose.keyspace, "holder.keyspace")
        check_there(self._store, caller, organization)
        if whose.key and (known is None or known[0] != whose.keyspace):
            raise NotFound("key", whose.key)
        if whose.owner and self._store.find_principal(organization, whose.owner) is None:
            raise NotFound("principal", whose.owner)
        return actor, Holder(organization, whose.keyspace, _whom(terms.per, whose, owner or "")), terms

    def _may(
        self, caller: Caller, permission: str, organization: str, keyspace: str, owner: str | None = None
    ) -> Actor:
        resource = f"organizations/{organization}/keyspaces/{keyspace}/credits"
        return self._guard.require(caller, permission, resource, owner=owner)

    def _terms(self, keyspace: str, field: str) -> Terms:
        terms = self._catalog.get(keyspace, field).sections.credits
        if terms is None:
            raise InvalidField(field, "has no credits: its file does not say 'credits'")
        return terms


def _balance(holder: Holder, account: Account | None, terms: Terms, now: Instant) -> Balance:
    present = opened(terms, now) if account is None else account.at(terms, now)
    return Balance(holder, present, account is not None)


def _whom(per: Per, whose: Whose, owner: str) -> str:
    if whose.key:
        return per.whom(whose.key, owner)
    if per is Per.OWNER and whose.owner:
        return per.whom("", whose.owner)
    if per is Per.ORGANIZATION and not whose.owner:
        return per.whom("", "")
    rule = {
        Per.KEY: "is required: this keyspace counts credits per key",
        Per.OWNER: "or owner is required: this keyspace counts credits per owner",
    }.get(per)
    if rule is not None:
        raise InvalidField("holder.key_id", rule)
    raise InvalidField("holder.owner", "must be empty: this keyspace counts credits per organization")


def _check(wanted: Setting, terms: Terms) -> None:
    balance, refill, default_refill = wanted
    if balance is None and refill is None and not default_refill:
        raise InvalidField("balance", "or refill_amount, or default_refill_amount is required: nothing is to be set")
    for field, amount in (("balance", balance), ("refill_amount", refill)):
        if amount is not None and not 0 <= amount <= MOST:
            raise InvalidField(field, f"must be 0 to {MOST:,}")
    if refill is not None and default_refill:
        raise InvalidField("default_refill_amount", "goes without refill_amount")
    if refill is not None and terms.refill is None:
        raise InvalidField(
            "refill_amount", "goes with a keyspace whose file says 'credits.refill'; this one's does not"
        )


def _told(
    actor: Actor, action: str, holder: Holder, before: Account, after: Account, now: Instant, note: str = ""
) -> Event:
    target = ("credits", f"{holder.keyspace}/{holder.whom}")
    return event(actor, action, holder.organization, target, now, _shown(before), _shown(after), note)


def _shown(account: Account) -> dict[str, object]:
    return {"balance": account.balance, "refill_amount": account.own}
