"""Reports of key texts that were found where they should not be: the text itself is the proof."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from doorward_server.core.errors import InvalidField, NotFound
from doorward_server.core.fields import check_id, check_text
from doorward_server.core.keytext import SecretText
from doorward_server.core.leaks import LEAKED, LeakOutcome, LeakPolicy, end_leaked
from doorward_server.core.model import Actor, Event, Instant, Key
from doorward_server.core.policy import Keyspace
from doorward_server.core.subject import Subject
from doorward_server.service.changes import key_event
from doorward_server.service.finding import Finder
from doorward_server.service.guard import Caller, Clock, Guard, reach
from doorward_server.service.pool import Pool
from doorward_server.store import Store

REPORT = "keys:report-leak"
MAX_FOUND_IN = 500
BODY = 16
"""Characters at the end of a text that must not be in what is said about it; less is shown of keys anyway."""

_DONE = {
    LeakOutcome.REVOKED: "It was revoked.",
    LeakOutcome.DISABLED: "It was disabled.",
    LeakOutcome.ENDED_BEFORE: "It was good for nothing any more.",
}
Tell = Callable[[str, Keyspace, str, str, str], None]


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of the key; which one it was, unless it is unknown; and the revision after that."""

    outcome: LeakOutcome
    organization: str = ""
    key: str = ""
    revision: int = 0


UNKNOWN = Reported(LeakOutcome.KEY_UNKNOWN)


class LeakReports:
    """Takes reports. Runs on the event loop; changes are made on the management pool.

    *tell* is told, for the alerts: organization, keyspace, key, where it was found, what became of the key.
    """

    def __init__(self, store: Store, finder: Finder, guard: Guard, management: Pool, tell: Tell, clock: Clock) -> None:
        self._tell = tell
        self._store = store
        self._finder = finder
        self._guard = guard
        self._management = management
        self._clock = clock

    async def report(self, caller: Caller, text: str, keyspace: str, found_in: str) -> Reported:
        """Do what the keyspace says to the key with this *text*, and write down where it was found.

        Who may not report in the key's organization is told what an unknown text is told. Raises CallerForbidden,
        InvalidField, UnknownReference, StoreUnavailable, Overloaded.
        """
        name = check_id("keyspace", keyspace, "keyspace")
        self._guard.require(caller, REPORT, f"organizations/{reach(caller, '')}/keyspaces/{name}/keys")
        _check_found_in(found_in, text)
        compiled = await self._finder.keyspace(name)
        origin = (caller.subject.key.id if caller.subject.key else "", str(caller.client_ip))
        found = await self._finder.find(SecretText(text), compiled, origin)
        if found.subject is None or found.subject.key is None or found.subject.secret is None:
            return UNKNOWN
        resource = f"organizations/{found.subject.organization.id}/keyspaces/{name}/keys"
        if not self._guard.may(caller, REPORT, resource):
            return UNKNOWN
        actor = self._guard.require(caller, REPORT, resource)
        loop = asyncio.get_running_loop()
        return await self._management.run(self._end_and_tell, found.subject, found.keyspace, actor, found_in, loop)

    def _end_and_tell(
        self, subject: Subject, keyspace: Keyspace, actor: Actor, found_in: str, loop: asyncio.AbstractEventLoop
    ) -> Reported:
        """Tell from here, where it was done: whoever has reported it may have given up waiting by then."""
        reported = self._end(subject, keyspace.leak_policy, actor, found_in)
        organization, key, done = reported.organization, reported.key, _DONE.get(reported.outcome, "")
        loop.call_soon_threadsafe(lambda: self._tell(organization, keyspace, key, found_in, done))
        return reported

    def _end(self, subject: Subject, policy: LeakPolicy, actor: Actor, found_in: str) -> Reported:
        key, secret, now = subject.key, subject.secret, self._clock()
        if key is None or secret is None:
            return UNKNOWN
        outcome = LeakOutcome.ENDED_BEFORE

        def change(current: Key) -> tuple[Key, Event]:
            nonlocal outcome
            ended = end_leaked(current, secret.id, policy, now)
            outcome = ended.outcome
            return ended.key, _event(actor, current, ended.key, secret.id, outcome, found_in, now)

        try:
            written = self._store.update_key(key.organization, key.id, change)
        except NotFound:  # deleted: its text has been good for nothing since, and is not a key's any more
            return Reported(LeakOutcome.ENDED_BEFORE, key.organization, key.id, self._store.revision())
        return Reported(outcome, key.organization, key.id, written.revision)


def _event(
    actor: Actor, before: Key, after: Key, secret: str, outcome: LeakOutcome, found_in: str, now: Instant
) -> Event:
    event = key_event(actor, LEAKED, before, after, now)
    told = {**(event.after or {}), "outcome": outcome.value, "secret": secret, "found_in": found_in}
    return replace(event, after=told, note=found_in)


def _check_found_in(found_in: str, text: str) -> None:
    check_text("found_in", found_in, MAX_FOUND_IN)
    if text and text[-BODY:] in found_in:
        raise InvalidField("found_in", "must not hold the key itself: the audit log keeps it")
