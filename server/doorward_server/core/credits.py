"""Credits: a balance that calls use up, and that comes back by itself or by somebody's hand. (design.md section 7)

Unlike units of limits, nothing of a balance is leased: each call is charged where the balance is kept, before it is
told that it is allowed. What time brings back is reckoned whenever a balance is looked at, so nothing has to run for
it. Instants are microseconds, of the clock of whoever keeps the balance; so are durations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .limits import Per
from .model import Instant

MOST = 1_000_000_000_000_000
"""The highest balance."""


@dataclass(frozen=True, slots=True)
class Refill:
    """What comes back: *amount* at the end of each *period*, counted from when the account was opened or last set."""

    amount: int
    period: int
    reset: bool = False
    """True: the balance becomes *amount*, whatever was left; False: it is added to that."""
    most: int = MOST
    """A balance that a refill is added to grows no further than this; one that is above it already stays."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a keyspace file says of credits."""

    per: Per = Per.KEY
    """Whose calls use up one balance: never KEY_AND_RESOURCE."""
    initial: int = 0
    """What an account is opened with: at its first call, or when it is first set."""
    refill: Refill | None = None
    costs: Mapping[str, int] = field(default_factory=dict)
    """Credits that one call takes, by permission; else 1."""


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Whose balance it is."""

    organization: str
    keyspace: str
    whom: str
    """`key:<id>`, `owner:<id>` or `organization`; see `Per.whom`."""

    @property
    def key(self) -> str:
        """The key whose it is; empty: not of a single one."""
        return self.whom.removeprefix("key:") if self.whom.startswith("key:") else ""

    @property
    def owner(self) -> str:
        """The principal whose it is; empty: not of one."""
        return self.whom.removeprefix("owner:") if self.whom.startswith("owner:") else ""


@dataclass(frozen=True, slots=True)
class Account:
    """A balance, and what is needed to tell what it is later."""

    balance: int
    since: Instant
    """When the period began that has not ended yet."""
    rule: Refill | None
    """What comes back at its end; None: nothing."""
    own: int | None = None
    """The account's own amount, instead of that of the rule."""

    def at(self, terms: Terms, now: Instant) -> Account:
        """Return the account as it is at *now*, with all that has come back since it was looked at.

        Periods that have ended give what the file said when it was last looked at; the one that has not, what *terms*
        say. A period of another length begins *now*. A clock that was set back brings nothing until it is where it was.
        """
        settled = self._settled(now)
        if terms.refill == self.rule:
            return settled
        another = self.rule is None or terms.refill is None or terms.refill.period != self.rule.period
        return replace(settled, rule=terms.refill, since=max(now, settled.since) if another else settled.since)

    def _settled(self, now: Instant) -> Account:
        rule = self.rule
        ended = (now - self.since) // rule.period if rule is not None else 0
        if rule is None or ended <= 0:
            return self
        balance = _refilled(self.balance, self._amount(rule), rule, ended)
        return replace(self, balance=balance, since=self.since + ended * rule.period)

    def take(self, cost: int) -> Account | None:
        """Return the account less *cost* credits; None: there are not so many, and nothing is taken."""
        return replace(self, balance=self.balance - cost) if cost <= self.balance else None

    def give_back(self, cost: int, since: Instant) -> Account:
        """Return the account with *cost* credits that were taken for nothing, in the period that began at *since*.

        They are gone if the balance was set or reset since then, and fill it no further than a refill would.
        """
        rule = self.rule
        if since == self.since:
            return self.add(cost)
        if rule is None or rule.reset or (self.since - since) % rule.period:
            return self
        return replace(self, balance=max(self.balance, min(self.balance + cost, rule.most)))

    def add(self, amount: int) -> Account:
        """Return the account with *amount* more, or less if it is negative; at least 0 and at most `MOST` remain."""
        return replace(self, balance=min(MOST, max(0, self.balance + amount)))

    def refills_at(self) -> Instant | None:
        """Return when the next refill comes; None: none does."""
        return self.since + self.rule.period if self.rule is not None else None

    def fits_at(self, cost: int) -> Instant | None:
        """Return when *cost* credits will be there, which are not now, if nobody takes any until then; None: never."""
        rule = self.rule
        if rule is None:
            return None
        amount = self._amount(rule)
        if rule.reset or amount == 0:
            return self.since + rule.period if cost <= amount else None
        if cost > rule.most:
            return None
        return self.since + -(-(cost - self.balance) // amount) * rule.period

    def refill_amount(self) -> int | None:
        """Return what the next refill gives; None: none comes."""
        return self._amount(self.rule) if self.rule is not None else None

    def _amount(self, rule: Refill) -> int:
        return rule.amount if self.own is None else self.own


def opened(terms: Terms, now: Instant) -> Account:
    """Return the account of somebody who had none."""
    return Account(terms.initial, now, terms.refill)


def _refilled(balance: int, amount: int, rule: Refill, times: int) -> int:
    if rule.reset:
        return amount
    return max(balance, min(balance + times * amount, rule.most))


@dataclass(frozen=True, slots=True)
class Debited:
    """What came of a debit: whether it was *taken*, and the account at *now*, less what was."""

    taken: bool
    account: Account
    now: Instant
