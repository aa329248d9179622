"""Charging what is allowed: to its limits, then to its credits. What either refuses costs nothing in the other."""

from __future__ import annotations

from collections.abc import Sequence

from doorward_server.core.credits import Debited, Holder, Terms
from doorward_server.core.decide import Question
from doorward_server.core.errors import DoorwardError
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import Reason
from doorward_server.core.subject import Subject
from doorward_server.service.debiting import Debiting
from doorward_server.service.limiting import Charged, Limiter, Standing
from doorward_server.store import Debit

Charge = tuple[Question, int]
"""What is asked, and how many units the caller says that it takes; 0: what the keyspace says."""


class Charging:
    """Charges calls. Belongs to the event loop."""

    def __init__(self, limiter: Limiter, debiting: Debiting) -> None:
        self._limiter = limiter
        self._debiting = debiting

    def counts(self, subject: Subject, question: Question, keyspace: Keyspace) -> bool:
        """Tell whether such a call is charged to anything: its answer must not be given again without asking."""
        has_credits = keyspace.sections.credits is not None and subject.key is not None
        return has_credits or self._limiter.limits(subject, question, keyspace)

    async def charge(self, subject: Subject, keyspace: Keyspace, question: Question, cost: int) -> Charged:
        """Charge a question that is allowed to all that it is counted by, or to nothing; *cost* is as in `Charge`.

        Raises StoreUnavailable and Overloaded where the store must be asked and cannot. Credits are then never taken
        for granted, whatever the keyspace says of limits.
        """
        if keyspace.sections.credits is None:
            return await self._limiter.charge(subject, question, keyspace, cost)
        (charged,) = await self.charge_all(subject, keyspace, [(question, cost)])
        return charged

    async def charge_all(self, subject: Subject, keyspace: Keyspace, charges: Sequence[Charge]) -> list[Charged]:
        """Charge questions that are allowed, in order, as `charge` does."""
        charged = [await self._limiter.charge(subject, question, keyspace, cost) for question, cost in charges]
        terms = keyspace.sections.credits
        if terms is None or subject.key is None:
            return charged
        whom = terms.per.whom(subject.key.id, subject.owner.id if subject.owner is not None else "")
        holder = Holder(subject.organization.id, keyspace.name, whom)
        debits = {i: debit for i, it in enumerate(charges) if (debit := _debit(holder, terms, it, charged[i]))}
        if not debits:
            return charged
        try:
            debited = dict(zip(debits, await self._debiting.debit(list(debits.values())), strict=True))
        except DoorwardError:
            for i in debits:
                self._limiter.give_back(subject, charges[i][0], keyspace, charged[i])
            raise
        for i, it in debited.items():
            given = charged[i] if it.taken else self._limiter.give_back(subject, charges[i][0], keyspace, charged[i])
            reason = None if it.taken else Reason.CREDITS_EXHAUSTED
            charged[i] = given._replace(reason=reason, credits=_standing(terms, it, debits[i].cost))
        return charged


def _debit(holder: Holder, terms: Terms, charge: Charge, charged: Charged) -> Debit | None:
    """Return what one call takes; None: nothing, or its limits have refused it."""
    question, cost = charge
    cost = cost or terms.costs.get(question.action, 1)
    return Debit(holder, terms, cost) if cost and charged.reason is None else None


def _standing(terms: Terms, debited: Debited, cost: int) -> Standing:
    account, now = debited.account, debited.now
    refill, fits = account.refills_at(), None if debited.taken else account.fits_at(terms, cost)
    return Standing(
        account.balance,
        None if refill is None else max(0, refill - now),
        None if fits is None else max(0, fits - now),
    )
