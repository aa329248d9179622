"""The simulated store: rows, commits in order, the change log, the registry, backups. Every method is one snapshot."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

from doorward_server.core.freshness import Change, Dependency, Poll, RegistryRow
from tests.simulation.scheduler import Broken, Scheduler

KEYSPACE = "demo"
ORGANIZATIONS = ("acme", "globex")
KEYS = {f"{organization}-{number}": organization for organization in ORGANIZATIONS for number in range(3)}
"""By key id: its organization. Its owner and the owner's group go by the organization, too."""

Row = tuple[str, str, str]
"""The words of the log: kind, organization, name; and GROUP, which the log does not know."""
Value = tuple[int, ...] | None
Rows = dict[Row, int]


def parts(key: str) -> tuple[Row, ...]:
    """Return the rows that a decision about *key* is made from, its own first."""
    organization = KEYS[key]
    return (
        ("KEY", organization, key),
        ("PRINCIPAL", organization, "owner"),
        ("GROUP", organization, "staff"),
        ("ORGANIZATION", organization, ""),
        ("KEYSPACE", "", KEYSPACE),
    )


PARTS = {key: parts(key) for key in KEYS}
ALL_ROWS = sorted({row for rows in PARTS.values() for row in rows})


def record(rows: Rows, key: str) -> Value:
    """Return what a decision about *key* sees: a version of each part, or None if there is no such key."""
    if PARTS[key][0] not in rows:
        return None
    return tuple(rows[row] for row in PARTS[key])


def dependencies(key: str, value: Value) -> tuple[Dependency, ...]:
    """Return what such an answer depends on."""
    organization = KEYS[key]
    if value is None:
        return (Dependency.on_lookup(KEYSPACE, key), Dependency.on_keyspace(KEYSPACE))
    return (
        Dependency.on_key(organization, key),
        Dependency.on_principal(organization, "owner"),
        Dependency.on_organization(organization),
        Dependency.on_keyspace(KEYSPACE),
    )


def logged(row: Row) -> tuple[Row, ...]:
    """Return the rows of the log that the triggers write for a change of *row*."""
    kind, organization, name = row
    if kind == "GROUP":
        return (("ORGANIZATION", organization, ""),)
    if kind == "KEY":
        return (row, ("LOOKUP", organization, f"{KEYSPACE}/{name}"))
    return (row,)


@dataclass
class Contents:
    """All that a backup holds."""

    rows: Rows
    revision: int = 0
    nonce: str = ""
    floor: int = 0
    log: list[tuple[int, str, Row]] = field(default_factory=list)
    nonces: dict[int, str] = field(default_factory=dict)
    registry: dict[str, RegistryRow] = field(default_factory=dict)


class Store:
    """What everybody asks. Beside the contents it keeps, for the checker alone, every state there ever was."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.now = Contents({row: number for number, row in enumerate(ALL_ROWS, 1)})
        self.acknowledged: dict[str, int] = {}
        """Not in any backup: it lives in another file."""
        self.down = False
        self.states: list[Rows] = []
        self.committed_at: list[int] = []
        self._versions = len(ALL_ROWS)
        self.commit({}, ())

    def version(self) -> int:
        """Return a version that no row ever had."""
        self._versions += 1
        return self._versions

    def begin(self) -> int:
        """Begin a transaction that will write."""
        self._check()
        return 0

    def commit(self, changed: dict[Row, int | None], dropped: tuple[Row, ...], begun: int = 0) -> int:
        """Change rows (None deletes), write the log, and return the revision: the next one, as of this commit."""
        self._check()
        rows = {**self.now.rows, **changed}
        self.now.rows = {row: version for row, version in rows.items() if version is not None}
        revision = self._next_revision(begun)
        nonce = f"{self._scheduler.random.getrandbits(64):016x}"
        if revision >= self.now.revision:
            self.now.revision, self.now.nonce = revision, nonce
        self.now.nonces[revision] = nonce
        self.now.log += [(revision, nonce, row) for row in dict.fromkeys(dropped)]
        self._remember()
        return revision

    def _next_revision(self, begun: int) -> int:
        return self.now.revision + 1

    def poll(self, replica: str, since: int, started_at: int) -> Poll:
        """Return what the tail asks for."""
        self._check()
        it = self.now
        row = it.registry.get(replica)
        found = [(revision, words) for revision, _, words in it.log if revision > since] if since else []
        changes = tuple(Change(revision, Dependency.logged(*words)) for revision, words in sorted(found))
        nonce = it.nonces.get(since) if since > it.floor or since == it.revision else None
        registered = row is not None and not row.condemned
        return Poll(replica, since, started_at, registered, it.revision, it.nonce, it.floor, nonce, changes)

    def read(self, key: str) -> tuple[Value, int]:
        """Return what a decision about *key* sees, and the revision, from one snapshot."""
        self._check()
        return record(self.now.rows, key), self.now.revision

    def index(self) -> tuple[int, int]:
        """Return the number of the state there is, and its revision."""
        self._check()
        return len(self.states) - 1, self.now.revision

    def register(self, row: RegistryRow, instead_of: str) -> None:
        """Add a replica; the one that it was before is condemned."""
        self._check()
        self.now.registry[row.id] = row
        self.condemn([instead_of])

    def registry(self) -> list[RegistryRow]:
        """Return all rows, condemned ones too."""
        self._check()
        return list(self.now.registry.values())

    def condemn(self, ids: list[str]) -> None:
        """Condemn replicas."""
        self._check()
        for id in ids:
            if id in self.now.registry:
                self.now.registry[id] = replace(self.now.registry[id], condemned=True)

    def delete(self, ids: list[str]) -> None:
        """Delete replicas' rows."""
        self._check()
        for id in ids:
            self.now.registry.pop(id, None)

    def acknowledge(self, replica: str, revision: int) -> None:
        """Write down what a replica has applied."""
        self._check()
        self.acknowledged[replica] = max(revision, self.acknowledged.get(replica, 0))

    def acknowledgements(self) -> dict[str, int]:
        """Return what all have applied."""
        self._check()
        return dict(self.acknowledged)

    def prune(self, keep: int) -> None:
        """Remove the oldest rows of the log."""
        it = self.now
        it.floor = max(it.floor, it.revision - keep)
        it.log = [row for row in it.log if row[0] > it.floor]

    def backup(self) -> Contents:
        """Return a copy of everything."""
        return copy.deepcopy(self.now)

    def restore(self, backup: Contents) -> None:
        """Be what *backup* was. The revisions since then will be used again, with other nonces."""
        self.now = copy.deepcopy(backup)
        self._remember()

    def _remember(self) -> None:
        self.states.append(dict(self.now.rows))
        self.committed_at.append(self._scheduler.now)

    def _check(self) -> None:
        if self.down:
            raise Broken
