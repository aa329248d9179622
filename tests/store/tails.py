"""Following a store's log as a replica does, without the protocol: what a poll says is held to what must be true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from doorward_server.core.freshness import Change, Poll
from doorward_server.store import Replica, Store, TailConnection
from tests.fakes import SECOND
from tests.store.values import NOW

PATIENT = 150 * SECOND
"""A staleness with which no poll runs out of time, however slow the machine."""


def replica(id: str = "replica_1", **changes: object) -> Replica:
    return Replica(id, NOW, NOW, {}, **changes)  # type: ignore[arg-type]  # of the test's own making


@dataclass
class Follower:
    """One replica's tail, and all that it has read."""

    tail: TailConnection
    replica: str = "replica_1"
    head: int = 0
    read: list[Change] = field(default_factory=list)

    def poll(self) -> Poll:
        """Poll from where the last one ended. Fails if the poll contradicts itself."""
        poll = self.tail.poll(self.replica, self.head, 0)
        revisions = [it.revision for it in poll.changes]
        assert revisions == sorted(revisions)
        assert not revisions or revisions[0] > self.head, "a change was told twice"
        if self.head:
            expected = poll.head if poll.head > self.head else 0
            assert max(revisions, default=0) == expected, "the head is of another moment than the changes"
        self.head = poll.head
        self.read += poll.changes
        return poll

    def named(self) -> set[tuple[str, str, str]]:
        """What was read, and forget it."""
        found = {(it.dependency.kind.value, it.dependency.organization, it.dependency.name) for it in self.read}
        self.read.clear()
        return found


@contextmanager
def following(store: Store, id: str = "replica_1") -> Iterator[Follower]:
    """A registered replica that has polled once."""
    store.replicas.register(replica(id))
    tail = store.open_tail(PATIENT)
    try:
        follower = Follower(tail, id)
        follower.poll()
        yield follower
    finally:
        tail.close()
