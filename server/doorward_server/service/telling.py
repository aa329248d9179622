"""What becomes known of a decision that is handed out: it has an id, it is recorded, and it counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from doorward_server.core.decide import Decision, Question
from doorward_server.core.model import Instant
from doorward_server.core.policy import Keyspace
from doorward_server.core.reasons import UNAUTHENTICATED, Reason
from doorward_server.core.subject import Address, Subject
from doorward_server.core.usage import AUTHENTICATE, INTROSPECT, DecisionRecord, shown_address, told_address
from doorward_server.service.counting import Counting
from doorward_server.service.decision_log import Recorder
from doorward_server.service.finding import Found
from doorward_server.service.guard import Caller
from doorward_server.service.limiting import Charged
from doorward_server.service.noticing import Noticing
from doorward_server.service.questions import Ask

LONGEST_ADDRESS = 64
"""Characters; where nothing is decided about a key, it was not looked at."""
Handed = tuple[Question | None, Decision]
"""A decision and what it is about; None: whose a credential is."""


class Telling:
    """Tells the decision log, the counts and the alerts. Runs on the event loop. *mark* is of this start, and begins
    every id.
    """

    def __init__(self, counting: Counting, noticing: Noticing, recorder: Recorder, mark: str) -> None:
        self._counting = counting
        self._noticing = noticing
        self._recorder = recorder
        self._mark = mark
        self._numbers = itertools.count(1)

    async def handed_out(
        self, caller: Caller, ask: Ask, found: Found, handed: Sequence[Handed], now: Instant
    ) -> list[str]:
        """Take note of decisions that *caller* is about to be told, and return their ids; a dry run's is empty.

        Where the keyspace records all, they are kept by then: raises StoreUnavailable and Overloaded if they are not.
        """
        if ask.dry_run or not handed:
            return [""] * len(handed)
        self._notice(caller, ask, found, handed[0], now)
        ids = [f"{self._mark}{next(self._numbers):x}" for _ in handed]
        keyspace = found.keyspace
        log = keyspace.sections.decision_log
        if log.everything or log.sample or any(not decision.allowed for _, decision in handed):
            records = [_record(caller, ask, found, it, id, now) for it, id in zip(handed, ids, strict=True)]
            await self._recorder.record(records, log)
        for question, decision in handed:
            action, path = (question.action, question.path) if question is not None else (INTROSPECT, ())
            about = (caller, found.subject, keyspace.name, action, path, decision.reason)
            self._counting.decided(*about, ask.client_ip[:LONGEST_ADDRESS], found.prefix, now)
        return ids

    def charged(self, subject: Subject, question: Question, keyspace: Keyspace, charged: Charged) -> None:
        """Note, for alerts, limits of which much is used. One comparison for each of which it is not."""
        nearly = self._noticing.nearly(subject.organization.id, keyspace)
        for it in charged.limits:
            used = it.limit - it.remaining
            if used * 100 >= nearly * it.limit:
                self._noticing.nearly_used(subject, question, keyspace, (it.name, it.window), it.limit, used)

    def _notice(self, caller: Caller, ask: Ask, found: Found, handed: Handed, now: Instant) -> None:
        """Note, for alerts, what a call says of a credential: once, however many questions it asks."""
        subject, (_, decision) = found.subject, handed
        if decision.reason in UNAUTHENTICATED:
            key = found.meant
            if subject is not None and subject.key is not None:
                key = (subject.key.organization, subject.key.id)
            address = shown_address(ask.client_ip[:LONGEST_ADDRESS])
            self._noticing.failed(caller.organization, found.keyspace, decision.reason, key, address, found.prefix)
        if subject is not None and subject.secret is not None and subject.secret.expires_at is not None:
            self._noticing.used(found.keyspace, subject, now)

    def kept_out(self, found: Found, reason: Reason, peer: Address | None, now: Instant) -> None:
        """Count a call to Doorward itself whose own key did not get it in."""
        self._counting.decided(
            None, found.subject, found.keyspace.name, AUTHENTICATE, (), reason, str(peer or ""), found.prefix, now
        )


def _record(caller: Caller, ask: Ask, found: Found, handed: Handed, id: str, now: Instant) -> DecisionRecord:
    question, decision = handed
    subject, calling = found.subject, caller.subject.key
    return DecisionRecord(
        at=now,
        id=id,
        organization=subject.organization.id if subject is not None else caller.organization,
        keyspace=found.keyspace.name,
        key=subject.key.id if subject is not None and subject.key is not None else "",
        owner=subject.owner.id if subject is not None and subject.owner is not None else "",
        action=question.action if question is not None else INTROSPECT,
        resource="/".join(question.path) if question is not None else "",
        reason=decision.reason.value,
        client_ip=told_address(ask.client_ip[:LONGEST_ADDRESS]),
        caller=f"{caller.organization}/{calling.id if calling is not None else ''}",
    )
