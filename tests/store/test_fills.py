"""What a cache is filled with: one moment's parts under that moment's revision, whoever edits meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from doorward_server.core.model import Ceiling
from doorward_server.store import Store
from tests.store import hands
from tests.store.hands import Hands
from tests.store.values import QUOTAS, binding, event, key, keyspace, secret

EDITS = 150
LOOKUP = "lookup0001"


def furnish(store: Store) -> None:
    """A key of alice's whose record has a row of every table."""
    made = key("key_1", owner="alice", ceiling=Ceiling.OWNER, secrets=(secret(LOOKUP),))
    store.add_key(made, event(), QUOTAS)
    store.add_binding(binding("b1"), event(), QUOTAS)


@dataclass
class Editor:
    """Writes the same number everywhere in one transaction, again and again; `revisions` tells which one each has."""

    prompt: Hands
    revisions: dict[str, int] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    EDITS = (
        "UPDATE organization SET display_name = ? WHERE id = 'acme'",
        "UPDATE principal SET display_name = ? WHERE organization = 'acme' AND id = 'alice'",
        "UPDATE key SET name = ? WHERE id = 'key_1'",
        "UPDATE binding SET role = ? WHERE id = 'b1'",
        "UPDATE secret SET last4 = ? WHERE key = 'key_1'",
    )

    def run(self) -> None:
        """Make all edits but the first, while somebody reads."""
        try:
            for number in range(1, EDITS):
                self.edit(number)
        finally:
            self.done.set()

    def edit(self, number: int) -> None:
        """Write *number* everywhere."""
        self.prompt.run("BEGIN" if self.prompt.postgresql else "BEGIN IMMEDIATE")
        for edit in self.EDITS:
            self.prompt.run(edit, str(number))
        self.prompt.run("UPDATE keyspace SET source = ?", str(number))
        if self.prompt.postgresql:
            self.prompt.run("SET CONSTRAINTS ALL IMMEDIATE")
        self.revisions[str(number)] = self.prompt.revision()
        self.prompt.run("COMMIT")


Read = tuple[int, set[str]]


def read_key(store: Store) -> Read:
    found = store.find_record("aiia", LOOKUP)
    record = found.record
    assert record is not None
    assert record.owner is not None
    names = {
        record.key.name,
        record.organization.display_name,
        record.owner.display_name,
        record.bindings[0].role,
        record.key.secrets[0].last4,
        str(found.keyspace_source),
    }
    return found.revision, names


def read_principal(store: Store) -> Read:
    found = store.find_principal_record("acme", "alice", "aiia")
    record = found.record
    assert record is not None
    names = {
        record.organization.display_name,
        record.principal.display_name,
        record.bindings[0].role,
        str(found.keyspace_source),
    }
    return found.revision, names


def read_keyspace(store: Store) -> Read:
    found = store.find_keyspace_record("aiia")
    assert found.keyspace is not None
    return found.revision, {found.keyspace.source}


READS: tuple[Callable[[Store], Read], ...] = (read_key, read_principal, read_keyspace)


def check_fills_are_of_one_moment(store: Store, url: str) -> None:
    """The plants `two-statements` and `counter-apart` must fail here."""
    furnish(store)
    reads: list[Read] = []
    with hands.at(url) as prompt:
        editor = Editor(prompt)
        editor.edit(0)
        thread = threading.Thread(target=editor.run)
        thread.start()
        try:
            while not editor.done.is_set():
                reads += [read(store) for read in READS]
        finally:
            thread.join()
    assert len(editor.revisions) == EDITS
    for revision, names in reads:
        assert len(names) == 1, f"joined from several moments: {names}"
        (name,) = names
        assert editor.revisions[name] <= revision, "what was read is newer than its revision"
        end = editor.revisions.get(str(int(name) + 1))
        assert end is None or revision < end, "what was read is older than its revision"
    assert len({name for _, names in reads for name in names}) >= 3, "nothing was read while it was edited"


def test_fills_are_of_one_moment(store: Store, store_url: str) -> None:
    check_fills_are_of_one_moment(store, store_url)


def test_a_keyspace_and_its_absence_have_a_revision(store: Store) -> None:
    assert store.find_keyspace_record("nowhere").keyspace is None
    written = store.apply_keyspace("new", lambda _: (keyspace("new"), event()))
    found = store.find_keyspace_record("new")
    assert (found.revision, found.keyspace) == (written.revision, written.value)
    assert store.find_keyspace_record("nowhere").revision == written.revision
