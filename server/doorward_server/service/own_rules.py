"""The alert rules that organizations have for themselves, in memory: who notices something asks here whom to tell.

A chore looks every few seconds whether the store has others. Nothing on a call's way waits for that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby

from doorward_server.core.alert_rules import OwnRule, Read, Ruling, problem_text, ruling
from doorward_server.core.errors import InvalidField
from doorward_server.core.policy import Keyspace
from doorward_server.core.sections import AlertRule
from doorward_server.service.keyspace_file import read_alert
from doorward_server.store import Store

LOOK_SECONDS = 2.0
"""How often a replica looks whether rules have changed."""


class OwnRules:
    """What rules there are for whom. For any thread; only `look` asks the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], _Ruled] = {}
        self._stamp: str | None = None
        self._looking = threading.Lock()

    def of(self, organization: str, keyspace: Keyspace) -> tuple[AlertRule, ...]:
        """Return the rules for what happens in *organization*: the same tuple for as long as they are the same."""
        ruled = self._known.get((organization, keyspace.name))
        return keyspace.sections.alerts if ruled is None else ruled.by(keyspace).rules

    def nearly(self, organization: str, keyspace: Keyspace) -> int:
        """Return the lowest percentage of a limit that a rule for *organization* tells of; 101: none does."""
        ruled = self._known.get((organization, keyspace.name))
        return keyspace.sections.nearly if ruled is None else ruled.by(keyspace).nearly

    def apart(self, keyspace: Keyspace) -> Iterator[tuple[str, tuple[AlertRule, ...]]]:
        """Yield each organization that has rules of its own in *keyspace*, and what it is looked at for by itself."""
        for (organization, name), ruled in self._known.items():
            if name == keyspace.name:
                yield organization, ruled.by(keyspace).apart

    def look(self) -> bool:
        """Read all rules if one has changed; tell whether one has. Blocking. Raises StoreUnavailable."""
        with self._looking:
            if self._store.alert_rules.stamp() == self._stamp:
                return False
            stamp, rows = self._store.alert_rules.list_all()
            known = {}
            for whose, group in groupby(rows, lambda it: (it.organization, it.keyspace)):
                rules, before = list(group), self._known.get(whose)
                known[whose] = before if before is not None and before.rules == rules else _Ruled(rules)
            self._known, self._stamp = known, stamp
            return True

    def forget(self) -> None:
        """Read all rules at the next look, whatever the stamp: the store may have another history."""
        self._stamp = None


class _Ruled:
    """The own rules of one organization for one keyspace, read when they are asked for, and compiled anew when the
    keyspace is another.
    """

    def __init__(self, rules: Sequence[OwnRule]) -> None:
        self.rules = rules
        self._by: tuple[Keyspace, Ruling] | None = None

    def by(self, keyspace: Keyspace) -> Ruling:
        known = self._by
        if known is None or known[0] is not keyspace:
            known = self._by = keyspace, ruling(keyspace, self._read)
        return known[1]

    @cached_property
    def _read(self) -> list[Read]:
        return [read(it) for it in self.rules]


def read(rule: OwnRule) -> Read:
    """Read the words of a rule that was set."""
    try:
        return Read(rule.name, read_alert(rule.text) if rule.text else None)
    except InvalidField as problem:  # by another version of Doorward it was a rule
        return Read(rule.name, None, problem_text(problem))
