"""Generated histories: a store, replicas that lag behind it, callers; as the promise allows, and with a fault injected.

For the checker's own tests. Time goes in steps; all that happens at once happens in the order in which it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from tests.chaos.checker import L
from tests.chaos.history import ALLOWED, DEFAULT, FULL, Change, Credential, Facts, History, Question

MS = 1_000_000
STEP = 10 * MS
REASONS = ("KEY_REVOKED", "KEY_DISABLED", "SECRET_SUPERSEDED", "OWNER_DISABLED", "DENIED_BY_RULE")


def credential(id: str, key: str) -> Credential:
    """A text with one fact for each of a few reasons, some of the key and some shared."""
    facts = (f"{key}/revoked", f"{key}/disabled", f"{id}/ended", "owner/disabled", "keyspace/deny")
    return Credential(id, key, tuple((reason, (fact,)) for reason, fact in zip(REASONS, facts, strict=True)))


@dataclass
class World:
    """A run that keeps the promise, step by step. `log` is what the store committed, in order."""

    random: Random
    history: History = field(default_factory=History)
    log: list[tuple[int, Facts]] = field(default_factory=lambda: [(0, frozenset())])
    now: int = 10 * L
    on_the_way: list[Change] = field(default_factory=list)
    """Changes that nobody knows the outcome of and that may still be made."""
    floor: int = 0
    """The number of the commit that every replica must have seen: that of the last waiting change."""

    def __post_init__(self) -> None:
        for key in ("k1", "k2"):
            for number in (1, 2):
                text = credential(f"{key}.{number}", key)
                self.history.credentials[text.id] = text

    def run(self, steps: int) -> History:
        """Go on for so many steps, and return what was seen."""
        for _ in range(steps):
            self.now += self.random.randrange(1, 8) * STEP
            self._step()
        self.history.changes.sort(key=lambda change: change.start)
        return self.history

    def _step(self) -> None:
        if self.on_the_way and self.random.random() < 0.2:
            self._commit(self.on_the_way.pop(self.random.randrange(len(self.on_the_way))).sets)
        if self.random.random() < 0.25:
            self._change()
        else:
            self._ask()

    def _change(self) -> None:
        kind, sets = self._what()
        start = self.now
        self.now += self.random.randrange(1, 30) * MS
        fate = self.random.random()
        if fate < 0.15:  # nobody hears of it; it is made later, or never
            change = Change(kind, sets, start, None, waited=True, process="m")
            self.history.changes.append(change)
            if self.random.random() < 0.7:
                self.on_the_way.append(change)
            return
        self._commit(sets)
        waited = fate < 0.7
        if waited:
            # While it waits, others may be asked and be answered from before it.
            for _ in range(self.random.randrange(4)):
                self._ask()
            self.floor = len(self.log) - 1
        self.now += self.random.randrange(1, 10) * MS
        self.history.changes.append(Change(kind, sets, start, self.now, waited, "m"))

    def _what(self) -> tuple[str, dict[str, bool]]:
        key = self.random.choice(("k1", "k2"))
        return self.random.choice(
            [
                ("revoke", {f"{key}/revoked": True}),
                ("disable", {f"{key}/disabled": True}),
                ("enable", {f"{key}/disabled": False}),
                ("rotate", {f"{key}.1/ended": True}),
                ("disable owner", {"owner/disabled": True}),
                ("enable owner", {"owner/disabled": False}),
                ("deny", {"keyspace/deny": True}),
                ("permit", {"keyspace/deny": False}),
            ]
        )

    def _commit(self, sets: dict[str, bool] | object) -> None:
        facts = Change("", sets, 0, 0, waited=False).apply(self.log[-1][1])  # type: ignore[arg-type]  # a mapping
        self.log.append((self.now, facts))

    def _ask(self) -> None:
        full = self.random.random() < 0.3
        credential = self.random.choice(list(self.history.credentials.values()))
        start = self.now
        # The oldest state that may be answered from: what ceased no longer than L ago, and not before the floor.
        oldest = self.floor
        while oldest + 1 < len(self.log) and self.log[oldest + 1][0] < start - L + 5 * STEP:
            oldest += 1
        at = len(self.log) - 1 if full else self.random.randrange(oldest, len(self.log))
        self.now += self.random.randrange(1, 5) * MS
        answer = credential.judge(self.log[at][1])
        place = self.random.choice(("r1", "r2", "r3"))
        self.history.questions.append(
            Question(credential.id, start, self.now, answer, place, FULL if full else DEFAULT, "c")
        )


Injection = Callable[[History, Random], History]
INJECTIONS: dict[str, Injection] = {}


def injection(inject: Injection) -> Injection:
    """Register a fault under the name of its function. It returns a copy of a good history, spoilt."""
    INJECTIONS[inject.__name__] = inject
    return inject


def _asked(history: History, *questions: Question) -> History:
    return replace(history, questions=[*history.questions, *questions])


def _at_the_end(history: History) -> int:
    ends = [it.end for it in history.questions] + [it.end or it.start for it in history.changes]
    return max(ends) + 10 * L


def _with(history: History, *changes: Change) -> History:
    return replace(history, changes=[*history.changes, *changes])


def _fresh(history: History, at: int) -> tuple[History, Credential]:
    """A key that nothing has happened to."""
    text = credential(f"new{at}.1", f"new{at}")
    alone = Credential(text.id, text.key, text.conditions[:3])
    return replace(history, credentials={**history.credentials, alone.id: alone}), alone


@injection
def allowed_after_a_waiting_revoke(history: History, random: Random) -> History:
    at = _at_the_end(history)
    history, text = _fresh(history, at)
    revoke = Change("revoke", {f"{text.key}/revoked": True}, at, at + 5 * MS, waited=True, process="m")
    start = at + 5 * MS + random.randrange(1, 2000) * MS
    return _asked(_with(history, revoke), Question(text.id, start, start + MS, ALLOWED))


@injection
def allowed_after_a_retry_of_a_timed_out_revoke(history: History, random: Random) -> History:
    at = _at_the_end(history)
    history, text = _fresh(history, at)
    sets = {f"{text.key}/revoked": True}
    first = Change("revoke", sets, at, None, waited=True, process="m")
    again = Change("revoke", sets, at + 20 * MS, at + 25 * MS, waited=True, process="m")
    start = at + 25 * MS + random.randrange(1, 90) * MS
    return _asked(_with(history, first, again), Question(text.id, start, start + MS, ALLOWED))


@injection
def allowed_too_long_after_a_change_that_did_not_wait(history: History, random: Random) -> History:
    at = _at_the_end(history)
    history, text = _fresh(history, at)
    sql = Change("sql", {f"{text.key}/disabled": True}, at, at + 5 * MS, waited=False, process="hand")
    start = at + 5 * MS + L + random.randrange(1, 500) * MS
    return _asked(_with(history, sql), Question(text.id, start, start + MS, ALLOWED))


@injection
def risen_from_the_dead(history: History, random: Random) -> History:
    at = _at_the_end(history)
    history, text = _fresh(history, at)
    revoke = Change("revoke", {f"{text.key}/revoked": True}, at, at + MS, waited=True)
    dead = [Question(text.id, at + n * L, at + n * L + MS, "KEY_REVOKED") for n in range(1, 4)]
    start = at + 4 * L
    return _asked(_with(history, revoke), *dead, Question(text.id, start, start + MS, ALLOWED))


@injection
def denied_for_what_never_was(history: History, random: Random) -> History:
    at = _at_the_end(history)
    history, text = _fresh(history, at)
    return _asked(history, Question(text.id, at, at + MS, random.choice(("KEY_UNKNOWN", "KEY_DISABLED"))))


@injection
def joined_from_two_revisions(history: History, random: Random) -> History:
    """A key is disabled, then its owner enabled: at no moment were both good, and yet somebody saw it so."""
    at = _at_the_end(history)
    key, owner = f"joined{at}/disabled", f"joined{at}-owner/disabled"
    text = Credential(f"joined{at}.1", f"joined{at}", (("KEY_DISABLED", (key,)), ("OWNER_DISABLED", (owner,))))
    history = replace(history, credentials={**history.credentials, text.id: text})
    before = Change("disable owner", {owner: True}, at, at + MS, waited=True)
    first = Change("disable", {key: True}, at + 2 * L, at + 2 * L + MS, waited=False)
    second = Change("enable owner", {owner: False}, at + 2 * L + 10 * MS, at + 2 * L + 200 * MS, waited=True)
    start = at + 2 * L + random.randrange(11, 150) * MS
    return _asked(_with(history, before, first, second), Question(text.id, start, start + MS, ALLOWED))


@injection
def enabled_and_still_denied(history: History, random: Random) -> History:
    at = _at_the_end(history)
    history, text = _fresh(history, at)
    fact = f"{text.key}/disabled"
    off = Change("disable", {fact: True}, at, at + MS, waited=True)
    on = Change("enable", {fact: False}, at + 10 * MS, at + 20 * MS, waited=True)
    start = at + 20 * MS + random.randrange(1, 900) * MS
    return _asked(_with(history, off, on), Question(text.id, start, start + MS, "KEY_DISABLED"))


@injection
def full_consistency_goes_back(history: History, random: Random) -> History:
    """While a change is on its way, the store has it at one moment and not at a later one."""
    at = _at_the_end(history)
    history, text = _fresh(history, at)
    slow = Change("disable", {f"{text.key}/disabled": True}, at, at + L // 2, waited=True)
    first = Question(text.id, at + 10 * MS, at + 11 * MS, "KEY_DISABLED", "r1", FULL)
    start = at + random.randrange(12, 400) * MS
    return _asked(_with(history, slow), first, Question(text.id, start, start + MS, ALLOWED, "r2", FULL))


@injection
def full_consistency_is_a_little_late(history: History, random: Random) -> History:
    at = _at_the_end(history)
    history, text = _fresh(history, at)
    sql = Change("sql", {f"{text.key}/disabled": True}, at, at + MS, waited=False, process="hand")
    start = at + random.randrange(2, 500) * MS
    return _asked(_with(history, sql), Question(text.id, start, start + MS, ALLOWED, "r1", FULL))
