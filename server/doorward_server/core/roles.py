"""Compiling the part `roles` of a keyspace document: includes followed, actions expanded. All raise KeyspaceInvalid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import KeyspaceInvalid
from .policy import EVERYTHING, Condition, Conditions, Effect, Pattern, Role, Rule, needs_stored
from .words import ROLE, Document, matching


class Roles:
    """The roles of one document, each compiled once all that it includes is."""

    def __init__(
        self,
        documents: Document,
        types: Mapping[str, tuple[str, ...]],
        relations: Mapping[str, frozenset[str]],
        parents: Mapping[str, tuple[str, ...]],
        conditions: Conditions,
        *,
        given: frozenset[str],
    ) -> None:
        """*given* are relations that rules may ask for although no type declares them."""
        self._documents = documents
        self._types = types
        self._relations = relations
        self._parents = parents
        self._conditions = conditions
        self._given = given
        self._permissions = [f"{type}:{verb}" for type, verbs in types.items() for verb in verbs]
        self._compiled: dict[str, Role] = {}

    def compiled(self) -> dict[str, Role]:
        """Return the roles by name."""
        for name in self._documents:
            matching(f"roles.{name}", name, ROLE)
            self._compile(name, ())
        return self._compiled

    def _compile(self, name: str, trail: tuple[str, ...]) -> Role:
        if name in trail:
            cycle = " → ".join((*trail[trail.index(name) :], name))
            raise KeyspaceInvalid(f"roles.{trail[-1]}.includes", f"goes round in a circle: {cycle}")
        if name not in self._compiled:
            document = self._documents[name] or {}
            included = [
                self._compile(self._known(name, i, other), (*trail, name))
                for i, other in enumerate(document.get("includes") or ())
            ]
            self._compiled[name] = self._role(name, document.get("rules") or (), included)
        return self._compiled[name]

    def _known(self, name: str, index: int, other: str) -> str:
        if other not in self._documents:
            raise KeyspaceInvalid(f"roles.{name}.includes[{index}]", f"there is no role {other!r}")
        return other

    def _role(self, name: str, documents: Iterable[Document], included: list[Role]) -> Role:
        rules: dict[str, tuple[Rule, ...]] = {}
        for index, document in enumerate(documents):
            place = f"roles.{name}.rules[{index}]"
            rule = self._rule(name, index, place, document)
            for permission in self._expand(place, document["actions"]):
                rules[permission] = (*rules.get(permission, ()), rule)
        for role in included:
            for permission, inherited in role.rules.items():
                rules[permission] = tuple(dict.fromkeys((*rules.get(permission, ()), *inherited)))
        return Role(
            name=name,
            rules=rules,
            includes=frozenset({name}).union(*(role.includes for role in included)),
            denies=any(rule.effect is Effect.DENY for filed in rules.values() for rule in filed),
            stored=frozenset(permission for permission, filed in rules.items() if any(map(_asks_stored, filed))),
        )

    def _rule(self, name: str, index: int, place: str, document: Document) -> Rule:
        resources = tuple(
            self._pattern(f"{place}.resources[{i}]", text) for i, text in enumerate(document.get("resources") or ())
        )
        resources = resources or (EVERYTHING,)
        relation = self._relation(f"{place}.relation", document.get("relation") or "", resources)
        condition = self._condition(f"{place}.condition", document.get("condition") or "")
        return Rule(Effect(document.get("effect") or "ALLOW"), resources, relation, name, index, condition)

    def _relation(self, place: str, given: Any, resources: tuple[Pattern, ...]) -> str:
        """Return "assigned" or "parent.assigned"; given so, or as {name: assigned, on: parent}."""
        if isinstance(given, Mapping):
            given = f"parent.{given['name']}" if given.get("on") == "parent" else given["name"]
        relation = str(given)
        if not relation or relation in self._given:
            return relation
        on, _, word = relation.rpartition(".")
        if on not in ("", "parent"):
            raise KeyspaceInvalid(place, f"{relation!r} must be a relation, or parent. and a relation")
        for pattern in resources:
            type = pattern.text.partition("/")[0]
            asked = tuple(self._types) if type == "*" else (type,)
            if not any(word in self._relations.get(it, ()) for each in asked for it in self._related(each, on)):
                whose = "any type" if type == "*" else f"{type!r}"
                raise KeyspaceInvalid(
                    place, f"can never hold: no relation {word!r} is declared for {'a parent of ' * bool(on)}{whose}"
                )
        return relation

    def _related(self, type: str, on: str) -> tuple[str, ...]:
        return self._parents.get(type, ()) if on else (type,)

    def _condition(self, place: str, text: str) -> Condition | None:
        try:
            return self._conditions.compile(text) if text else None
        except ValueError as problem:
            raise KeyspaceInvalid(place, str(problem)) from None

    def _pattern(self, place: str, text: str) -> Pattern:
        try:
            pattern = Pattern.parse(text)
        except ValueError as problem:
            raise KeyspaceInvalid(place, str(problem)) from None
        type = text.split("/", maxsplit=1)[0]
        if type != "*" and type not in self._types:
            raise KeyspaceInvalid(place, f"can never match: there is no type {type!r} under types")
        return pattern

    def _expand(self, place: str, actions: Iterable[str]) -> list[str]:
        expanded: dict[str, None] = {}
        for i, action in enumerate(actions):
            fitting = [permission for permission in self._permissions if _action_fits(action, permission)]
            if not fitting:
                raise KeyspaceInvalid(f"{place}.actions[{i}]", f"{action!r} matches no permission declared under types")
            expanded.update(dict.fromkeys(fitting))
        return list(expanded)


def _action_fits(action: str, permission: str) -> bool:
    wanted_type, _, wanted_verb = action.partition(":")
    type, _, verb = permission.partition(":")
    return wanted_type in ("*", type) and wanted_verb in ("*", verb)


def _asks_stored(rule: Rule) -> bool:
    return rule.relation != "" or (rule.condition is not None and needs_stored(rule.condition))
