"""Charging what is allowed: to its credits, and to its limits.

Credits are taken first, and given back where a limit refuses: units of limits are spent here and now, and cannot be
given back to other servers; and what waits for credits must not come out of a limit all at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import NamedTuple

from doorward_server.core.credits import Debited, Holder, Terms
from doorward_server.core.decide import Question
from doorward_server.core.errors import DoorwardError, MayBeCharged, StoreUnavailable
from doorward_server.core.model import DAY
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import Reason
from doorward_server.core.subject import Subject
from doorward_server.service.debiting import Debiting
from doorward_server.service.limiting import FREE, Charged, Limiter, Standing
from doorward_server.store import Debit

LONGEST = 36_600 * DAY
"""Microseconds; who would have to wait longer is told that nothing comes."""


class Charge(NamedTuple):
    """A question that is allowed, and how many units the caller says that it takes; 0: what the keyspace says."""

    question: Question
    cost: int


class Charging:
    """Charges calls. Belongs to the event loop."""

    def __init__(self, limiter: Limiter, debiting: Debiting) -> None:
        self._limiter = limiter
        self._debiting = debiting

    def counts(self, subject: Subject, question: Question, keyspace: Keyspace) -> bool:
        """Tell whether such a call is charged to anything: its answer must not be given again without asking."""
        pays = keyspace.sections.credits is not None and subject.key is not None
        return pays or self._limiter.limits(subject, question, keyspace)

    def charge(self, subject: Subject, keyspace: Keyspace, charge: Charge) -> Awaitable[Charged]:
        """Charge a question to all that it is counted by, or to nothing.

        Raises StoreUnavailable and Overloaded where the store must be asked and cannot; MayBeCharged if credits may be
        gone for no answer. They are never taken for granted, whatever the keyspace says of limits.
        """
        terms = keyspace.sections.credits
        if terms is None or subject.key is None:
            return self._limiter.charge(subject, charge.question, keyspace, charge.cost)
        return self._charge(subject, keyspace, terms, charge)

    async def _charge(self, subject: Subject, keyspace: Keyspace, terms: Terms, charge: Charge) -> Charged:
        question, cost = charge
        refused = self._limiter.refuses(subject, question, keyspace, cost)
        if refused is not None:
            return refused
        debit = _debit(_holder(subject, keyspace, terms), terms, charge)
        if debit is None:
            return await self._limiter.charge(subject, question, keyspace, cost)
        (debited,) = await self._paid([debit])
        paid = _told(debited, debit)
        if paid.reason is not None:
            return paid
        try:
            charged = _both(paid, await self._limiter.charge(subject, question, keyspace, cost))
        except Exception:
            await self.give_back([paid])
            raise
        if charged.reason is not None:
            await self.give_back([paid])
        return charged

    async def charge_all(self, subject: Subject, keyspace: Keyspace, charges: Sequence[Charge]) -> list[Charged]:
        """Charge questions, in order, as `charge` does; all that they pay shares a transaction.

        Where it raises, what was paid is given back.
        """
        terms = keyspace.sections.credits
        if terms is None or subject.key is None:
            return [await self._limiter.charge(subject, question, keyspace, cost) for question, cost in charges]
        charged = await self._all_paid(_holder(subject, keyspace, terms), terms, charges)
        undone = list[Charged]()
        try:
            for i, (question, cost) in enumerate(charges):
                paid = charged[i]
                if paid.reason is None:
                    charged[i] = _both(paid, await self._limiter.charge(subject, question, keyspace, cost))
                    undone += [paid] if charged[i].reason is not None else []
            await self.give_back(undone)
            again, undone = bool(undone), []
            for i, charge in enumerate(charges) if again else ():  # what was given back may pay for these
                if charged[i].reason is Reason.CREDITS_EXHAUSTED:
                    now = await self.charge(subject, keyspace, charge)
                    charged[i] = now if now.reason is None else charged[i]
        except MayBeCharged:
            raise
        except Exception:
            await self.give_back([*charged, *undone])
            raise
        return charged

    async def give_back(self, charged: Iterable[Charged]) -> None:
        """Give back the credits of calls that get no answer. Raises MayBeCharged if that cannot be done."""
        paid = [it.paid for it in charged if it.paid is not None]
        if not paid:
            return
        try:
            await self._debiting.undo(paid)
        except DoorwardError:
            raise MayBeCharged from None

    async def _all_paid(self, holder: Holder, terms: Terms, charges: Sequence[Charge]) -> list[Charged]:
        debits = [_debit(holder, terms, it) for it in charges]
        wanted = [it for it in debits if it is not None]
        came = iter(await self._paid(wanted) if wanted else ())
        return [_told(next(came), it) if it is not None else FREE for it in debits]

    async def _paid(self, debits: Sequence[Debit]) -> list[Debited]:
        try:
            return await self._debiting.debit(debits)
        except StoreUnavailable as lost:
            if lost.outcome_known:
                raise
            raise MayBeCharged from None


def _holder(subject: Subject, keyspace: Keyspace, terms: Terms) -> Holder:
    key = subject.key.id if subject.key is not None else ""
    owner = subject.owner.id if subject.owner is not None else ""
    return Holder(subject.organization.id, keyspace.name, terms.per.whom(key, owner))


def _debit(holder: Holder, terms: Terms, charge: Charge) -> Debit | None:
    """Return what one call takes; None: nothing."""
    cost = charge.cost or terms.costs.get(charge.question.action, 1)
    return Debit(holder, terms, cost) if cost else None


def _both(paid: Charged, limited: Charged) -> Charged:
    """Return what becomes of a call that was *paid*, by what its limits say."""
    return limited._replace(credits=paid.credits, paid=paid.paid) if limited.reason is None else limited


def _told(debited: Debited, debit: Debit) -> Charged:
    if debited.taken:
        return Charged(None, (), _standing(debited, debit.cost), debit.taken(debited))
    return Charged(Reason.CREDITS_EXHAUSTED, (), _standing(debited, debit.cost))


def _standing(debited: Debited, cost: int) -> Standing:
    account, now = debited.account, debited.now
    fits = None if debited.taken else account.fits_at(cost)
    return Standing(account.balance, _wait(account.refills_at(), now), _wait(fits, now))


def _wait(until: int | None, now: int) -> int | None:
    return max(0, until - now) if until is not None and until - now <= LONGEST else None
