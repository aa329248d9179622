"""Balances of credits, over all replicas. Debits are neither a revision nor an audit event; what people change is one.

Debits of one account come one after the other, as charges of a limit do (`limits`): SQLite has one writer, and in
PostgreSQL they take a lock of its name before it is read, and the time after that; but a debit waits for none. Nothing
but the store knows a balance, so what is committed is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from doorward_server.core.credits import Account, Debited, Holder, Refill, Terms, opened
from doorward_server.core.model import Event, Instant, Replay

from . import replays
from .entities import ORGANIZATIONS, get
from .transaction import Transaction, Transactions
from .values import Written

Change = Callable[[Account, Instant], tuple[Account, Event]]
"""Makes of an account, as it is at that time, what shall be."""

_COLUMNS = "balance, since, amount, period, reset, most, own"
_FIND = f"SELECT {_COLUMNS} FROM credit_account WHERE organization = ? AND keyspace = ? AND whom = ?"  # noqa: S608  # columns
_LIST = f"""
SELECT whom, {_COLUMNS} FROM credit_account WHERE organization = ? AND keyspace = ? AND whom > ? ORDER BY whom LIMIT ?
"""  # noqa: S608  # columns
_KEEP = """
INSERT INTO credit_account (organization, keyspace, whom, balance, since, amount, period, reset, most, own)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (organization, keyspace, whom) DO UPDATE
SET balance = excluded.balance, since = excluded.since, amount = excluded.amount, period = excluded.period,
reset = excluded.reset, most = excluded.most, own = excluded.own
"""


@dataclass(frozen=True, slots=True)
class Debit:
    """What is asked for: *cost* credits of *holder*'s balance, or nothing if there are not so many."""

    holder: Holder
    terms: Terms
    cost: int
    taken_since: Instant | None = None
    """None: it is to be taken. Else it gives back *cost* that was taken when the account said this of `since`."""

    def taken(self, debited: Debited) -> Debit:
        """Return what gives it back, after it was taken."""
        return replace(self, taken_since=debited.account.since)


class CreditStore:
    """The part of `Store` that keeps balances; like there, every public method is one transaction."""

    def __init__(self, transactions: Transactions) -> None:
        self._write, self._look = transactions.write, transactions.look

    def debit(self, debits: Sequence[Debit], clock: Callable[[], Instant]) -> list[Debited | None]:
        """Take each of *debits* in turn, and return what came of them; None: somebody else has the account just now.

        *clock* is for SQLite, which has none.
        """
        return self._write(lambda tx: _debit(tx, debits, clock)).value

    def find(self, holder: Holder) -> Account | None:
        """Return an account as it was when it was last charged or changed; None: it was not opened yet."""
        return self._look(lambda tx: _find(tx, holder))

    def list_some(self, organization: str, keyspace: str, after: str, limit: int) -> list[tuple[Holder, Account]]:
        """Return accounts that were opened, by whom, behind *after*; each as it was when it was last charged or
        changed.
        """
        rows = self._look(lambda tx: tx.ask(_LIST, organization, keyspace, after, limit))
        return [(Holder(organization, keyspace, whom), _account(row)) for whom, *row in rows]

    def now(self, clock: Callable[[], Instant]) -> Instant:
        """Return the time by which balances are kept; *clock* is for SQLite."""
        return self._look(lambda tx: tx.dialect.now(clock))

    def update(
        self,
        holder: Holder,
        terms: Terms,
        change: Change,
        clock: Callable[[], Instant],
        replay: Replay | None = None,
    ) -> Written[Account]:
        """Apply *change* to an account, which is opened if it was not yet.

        A *replay* within 24 hours gives the account as it is, and *change* is not called. Raises NotFound
        (organization), RequestIdReused, and what *change* raises.
        """
        return self._write(lambda tx: _update(tx, holder, terms, change, clock, replay))


def _debit(tx: Transaction, debits: Sequence[Debit], clock: Callable[[], Instant]) -> list[Debited | None]:
    terms = {it.holder: it.terms for it in debits}
    had, now = tx.dialect.at_once(sorted(map(_name, terms)), clock)
    before = {holder: _find(tx, holder) for holder in terms if _name(holder) in had}
    accounts = {it: _at(account, terms[it], now) for it, account in before.items()}
    debited = [_take(accounts, it, now) if it.holder in accounts else None for it in debits]
    for holder, account in accounts.items():
        if account != before[holder]:
            _keep(tx, holder, account)
    return debited


def _take(accounts: dict[Holder, Account], debit: Debit, now: Instant) -> Debited:
    account = accounts[debit.holder]
    since = debit.taken_since
    left = account.take(debit.cost) if since is None else account.give_back(debit.cost, since)
    if left is not None:
        accounts[debit.holder] = left
    return Debited(left is not None, accounts[debit.holder], now)


def _update(
    tx: Transaction,
    holder: Holder,
    terms: Terms,
    change: Change,
    clock: Callable[[], Instant],
    replay: Replay | None,
) -> Account:
    tx.tally(holder.organization)
    get(tx, ORGANIZATIONS, holder.organization)
    now = tx.dialect.in_turn([_name(holder)], clock)
    account = _at(_find(tx, holder), terms, now)
    if replays.find(tx, replay) is not None:
        return account
    changed, event = change(account, now)
    _keep(tx, holder, changed)
    replays.remember(tx, replay, holder.organization, holder.whom)
    tx.append(event)
    return changed


def _at(account: Account | None, terms: Terms, now: Instant) -> Account:
    return opened(terms, now) if account is None else account.at(terms, now)


def _find(tx: Transaction, holder: Holder) -> Account | None:
    rows = tx.ask(_FIND, holder.organization, holder.keyspace, holder.whom)
    return _account(rows[0]) if rows else None


def _account(row: Sequence[Any]) -> Account:
    balance, since, amount, period, reset, most, own = row
    return Account(balance, since, None if amount is None else Refill(amount, period, bool(reset), most), own)


def _keep(tx: Transaction, holder: Holder, account: Account) -> None:
    rule = account.rule
    refill = (None,) * 4 if rule is None else (rule.amount, rule.period, rule.reset, rule.most)
    of = (holder.organization, holder.keyspace, holder.whom)
    tx.change(_KEEP, *of, account.balance, account.since, *refill, account.own)


def _name(holder: Holder) -> str:
    return f"credits/{holder.organization}/{holder.keyspace}/{holder.whom}"
