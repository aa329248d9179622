"""What a replica remembers: records, never decisions; each with the revision it was read at and what it depends on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from .dependency import ALL, Change, Dependency

T = TypeVar("T")
_MANY = 1000
_MOST_SPARED = 16
"""So many used entries are passed by for one that is not, so that a full cache takes a fill in bounded time."""


@dataclass(frozen=True, slots=True)
class Fill(Generic[T]):
    """What one snapshot of the store gave: all parts of *value* and *revision* come from that same snapshot.

    `known` is False for an answer that says that there is nothing: those are kept apart.
    """

    value: T
    revision: int
    dependencies: tuple[Dependency, ...]
    known: bool = True


class Entry(Generic[T]):
    """One thing remembered. `used` is the cache's own bookkeeping."""

    __slots__ = ("dependencies", "revision", "used", "value")

    def __init__(self, fill: Fill[T]) -> None:
        self.value = fill.value
        self.revision = fill.revision
        self.dependencies = fill.dependencies
        self.used = False


class _Shelf(Generic[T]):
    """A bounded map. When it is full, the oldest entry that was not asked for since it was last looked at goes."""

    def __init__(self, capacity: int) -> None:
        # An OrderedDict: the first of a dict whose first was often removed takes long to find.
        self.entries: OrderedDict[Hashable, Entry[T]] = OrderedDict()
        self._capacity = capacity

    def surplus(self) -> Hashable | None:
        """Return the key that must go, if the map is too full. Whatever was used is spared once."""
        if len(self.entries) <= self._capacity:
            return None
        for key in tuple(islice(self.entries, _MOST_SPARED)):
            entry = self.entries[key]
            if not entry.used:
                return key
            entry.used = False
            self.entries.move_to_end(key)
        return next(iter(self.entries))


class Cache(Generic[T]):
    """A bounded cache that change-log rows keep true. It says what is known, not whether a lease is live: ask first.

    Closed until `start`: nothing is kept. `applied` is the revision up to which all changes are applied, and the
    revision as of which every entry is true while the lease is live, unless its own is higher.
    """

    def __init__(self, capacity: int, negatives: int, tombstones: int = 65_536) -> None:
        self._known: _Shelf[T] = _Shelf(capacity)
        self._unknown: _Shelf[T] = _Shelf(negatives)
        self._find_known = self._known.entries.get
        self._find_unknown = self._unknown.entries.get
        self._keys: dict[Dependency, set[Hashable]] = {}
        self._tombstones: OrderedDict[Dependency, int] = OrderedDict()
        self._most_tombstones = tombstones
        self._floor: int | None = None
        self.applied = 0
        self.generation = 0
        """Goes up whenever the store may have become another one: what was begun under another one is not kept."""

    def __len__(self) -> int:
        """Count what is known and what is known not to be there."""
        return len(self._known.entries) + len(self._unknown.entries)

    def get(self, key: Hashable) -> Entry[T] | None:
        """Return what is remembered under *key*, negatives included. True only under a live lease."""
        entry = self._find_known(key) or self._find_unknown(key)
        if entry is not None:
            entry.used = True
        return entry

    def start(self, revision: int) -> None:
        """Begin to keep fills: all changes up to *revision* are in what is read from now on."""
        self.clear()
        self._floor = self.applied = revision

    def clear(self) -> None:
        """Forget everything and keep nothing until `start`."""
        self._forget()
        self._tombstones.clear()
        self._floor = None
        self.generation += 1

    def apply(self, changes: Iterable[Change], revision: int) -> None:
        """Drop what *changes* touched; *revision* is the log's head: all changes up to it are applied then."""
        for change in changes:
            if change.dependency == ALL:
                self._forget(before=change.revision)
                self._raise_floor(change.revision)
            else:
                self._bury(change)
        self.applied = max(self.applied, revision)

    def forget_ahead(self) -> None:
        """Drop what was read at a revision that is not applied yet, and refuse what is being read.

        Whether that revision came to stay is unknown after a gap in which the store may have been restored.
        """
        self.generation += 1
        for shelf in (self._known, self._unknown):
            for key in [key for key, entry in shelf.entries.items() if entry.revision > self.applied]:
                self._drop(key)

    def fresh(self, revision: int, dependencies: Iterable[Dependency]) -> bool:
        """Tell whether no applied change to any of *dependencies* is newer than *revision*, as far as can be known."""
        if self._floor is None or revision < self._floor:
            return False
        tombstones = self._tombstones
        return all(tombstones.get(dependency, 0) <= revision for dependency in dependencies)

    def offer(self, key: Hashable, fill: Fill[T], generation: int) -> bool:
        """Remember *fill* under *key* and return True, unless a change may have overtaken it.

        *generation* is the cache's from before the fill was begun. What is there already is kept if it is newer.
        """
        if generation != self.generation or not self.fresh(fill.revision, fill.dependencies):
            return False
        old = self._find_known(key) or self._find_unknown(key)
        if old is not None:
            if old.revision > fill.revision:
                return False
            self._drop(key)
        shelf = self._known if fill.known else self._unknown
        shelf.entries[key] = Entry(fill)
        for dependency in fill.dependencies:
            self._keys.setdefault(dependency, set()).add(key)
        if (surplus := shelf.surplus()) is not None:
            self._drop(surplus)
        return True

    def _bury(self, change: Change) -> None:
        keys = self._keys.get(change.dependency, ())
        if len(keys) * 2 > len(self) > _MANY:
            self._forget()  # much quicker than one by one, and the event loop waits for it
        else:
            for key in tuple(keys):
                entry = self._find_known(key) or self._find_unknown(key)
                if entry is not None and entry.revision < change.revision:
                    self._drop(key)
        # Their order is that of their revisions, so the first is the oldest.
        self._tombstones[change.dependency] = change.revision
        self._tombstones.move_to_end(change.dependency)
        if len(self._tombstones) > self._most_tombstones:
            self._raise_floor(self._tombstones.popitem(last=False)[1])

    def _raise_floor(self, revision: int) -> None:
        if self._floor is not None:
            self._floor = max(self._floor, revision)

    def _drop(self, key: Hashable) -> None:
        entry = self._known.entries.pop(key, None) or self._unknown.entries.pop(key, None)
        for dependency in entry.dependencies if entry is not None else ():
            if (keys := self._keys.get(dependency)) is not None:
                keys.discard(key)
                if not keys:
                    del self._keys[dependency]

    def _forget(self, before: int | None = None) -> None:
        """Drop everything, or all that was read before a revision."""
        if before is None:
            # In place: `get` holds on to the maps.
            self._known.entries.clear()
            self._unknown.entries.clear()
            self._keys.clear()
            return
        for shelf in (self._known, self._unknown):
            for key in [key for key, entry in shelf.entries.items() if entry.revision < before]:
                self._drop(key)
