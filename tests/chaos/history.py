"""What the processes of a run saw: changes that were made, questions that were asked, and when, on one clock.

A *fact* is something that a change makes true or false, e.g. `k7/revoked`; all begin false. A *credential* is one text
that is asked about, with its *conditions*: in order, the first whose facts are all true is the reason of the denial;
if there is none, the answer is ALLOWED. That is all a checker must know of Doorward, and it is written down before the
run, by what the mutator built.

Instants are nanoseconds of CLOCK_BOOTTIME, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

ALLOWED = "ALLOWED"
DEFAULT = "default"
FULL = "full"
"""The consistency of questions that the store itself must answer."""
FRESH = "fresh"
"""The consistency of questions that name the revision of the last change before them, and so must see that."""


def boottime() -> int:
    """The clock of all histories; runs on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


Facts = frozenset[str]
"""The facts that are true."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One text that is asked about."""

    id: str
    key: str
    conditions: tuple[tuple[str, tuple[str, ...]], ...]
    """Reason and facts, in the order in which Doorward asks."""

    def judge(self, facts: Facts) -> str:
        """Return the answer that is right when exactly *facts* are true."""
        for reason, needed in self.conditions:
            if facts.issuperset(needed):
                return reason
        return ALLOWED

    @property
    def facts(self) -> Facts:
        """All that the answer depends on."""
        return frozenset(fact for _, needed in self.conditions for fact in needed)


@dataclass(frozen=True, slots=True)
class Change:
    """A mutation. One whose outcome is unknown may take effect at any moment after its start, or never."""

    kind: str
    sets: Mapping[str, bool]
    start: int
    end: int | None
    """When it had returned; None: nobody knows whether it was made."""
    waited: bool
    """Whether returning meant that it counts everywhere."""
    process: str = ""

    def apply(self, facts: Facts) -> Facts:
        """Return the facts after it."""
        return facts.difference(self.sets).union(fact for fact, value in self.sets.items() if value)

    def among(self, facts: Facts) -> Change | None:
        """Return the part of it that concerns *facts*; None if there is none."""
        sets = {fact: value for fact, value in self.sets.items() if fact in facts}
        return Change(self.kind, sets, self.start, self.end, self.waited, self.process) if sets else None


@dataclass(frozen=True, slots=True)
class Question:
    """An Authorize that was answered."""

    credential: str
    start: int
    end: int
    answer: str
    """The reason."""
    place: str = ""
    """The replica that was called."""
    consistency: str = DEFAULT
    process: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it was an ALLOW."""
        return self.answer == ALLOWED


@dataclass
class History:
    """Everything of one run."""

    credentials: dict[str, Credential] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    unanswered: int = 0
    """Questions that ended in an error: they say nothing, and are not checked."""
    waits: list[tuple[str, int]] = field(default_factory=list)
    """Of waiting mutations: what they said of it, and how long they took in all."""

    def by_key(self) -> Iterator[tuple[list[Credential], list[Change], list[Question]]]:
        """Give what concerns one key, for each: its credentials, the changes of their facts, the questions.

        If a run can be explained as a whole, so can each of these: leaving out what a key does not see changes nothing
        of what it sees.
        """
        credentials: dict[str, list[Credential]] = {}
        for credential in self.credentials.values():
            credentials.setdefault(credential.key, []).append(credential)
        questions: dict[str, list[Question]] = {key: [] for key in credentials}
        for question in self.questions:
            questions[self.credentials[question.credential].key].append(question)
        by_fact: dict[str, list[Change]] = {}
        for change in self.changes:
            for fact in change.sets:
                by_fact.setdefault(fact, []).append(change)
        for key, members in credentials.items():
            facts = frozenset().union(*(member.facts for member in members))
            touching = {id(change): change for fact in facts for change in by_fact.get(fact, ())}
            seen = [part for change in touching.values() if (part := change.among(facts))]
            yield members, sorted(seen, key=lambda change: change.start), questions[key]


class Recorder:
    """Writes down what one process saw, a line of JSON each."""

    def __init__(self, path: Path, process: str) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1 << 16)
        self._process = process

    def credential(self, credential: Credential) -> None:
        """Write down a text before anybody asks about it."""
        self._write("credential", credential.id, credential.key, credential.conditions)

    def change(self, kind: str, sets: Mapping[str, bool], start: int, end: int | None, waited: bool) -> None:
        """Write down a mutation."""
        self._write("change", kind, sets, start, end, waited, self._process)

    def question(self, credential: str, start: int, end: int, answer: str, place: str, consistency: str) -> None:
        """Write down a question that was answered."""
        self._write("question", credential, start, end, answer, place, consistency, self._process)

    def unanswered(self) -> None:
        """Write down a question that ended in an error."""
        self._write("unanswered")

    def wait(self, outcome: str, nanoseconds: int) -> None:
        """Write down how a waiting mutation returned."""
        self._write("wait", outcome, nanoseconds)

    def _write(self, kind: str, *values: Any) -> None:
        self._file.write(json.dumps([kind, *values]) + "\n")

    def close(self) -> None:
        """Flush, and write no more."""
        self._file.close()


def read(paths: Iterable[Path]) -> History:
    """Return what several processes wrote down."""
    history = History()
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                kind, *values = json.loads(line)
                _READ[kind](history, *values)
    return history


def _credential(history: History, id: str, key: str, conditions: list[tuple[str, list[str]]]) -> None:
    read = tuple((reason, tuple(facts)) for reason, facts in conditions)
    history.credentials[id] = Credential(id, key, read)


def _unanswered(history: History) -> None:
    history.unanswered += 1


_READ: dict[str, Any] = {
    "credential": _credential,
    "change": lambda history, *values: history.changes.append(Change(*values)),
    "question": lambda history, *values: history.questions.append(Question(*values)),
    "unanswered": _unanswered,
    "wait": lambda history, *values: history.waits.append(tuple(values)),
}
