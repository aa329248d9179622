"""Compiling a keyspace document into a `Keyspace`.

The document is what the YAML file says, as plain mappings and lists:

    keyspace: aiia                    # name; required
    display_name: AIIA                # default: the name
    prefix: aiia_key                  # what key texts begin with; required, fixed for good
    environments: [live, test]        # the default one first; default: [live]; may grow, not shrink
    credentials:                      # where callers put keys; required
      - {header: Authorization, scheme: ApiKey}
      - {query: api_key}
    organization: required            # must Authorize name it, or is it the key's own: required | key (default)
    inherit: false                    # may a key with an owner do at most what the owner may? default: false
    ceilings: [list]                  # allowed ceilings, the default one first: list, owner; default: [list]
    mask: "•••••{last4}"              # for display; default: "{prefix}_{environment}_…{last4}"
    types:                            # resource types and their verbs; required
      findings: [read, create]
    authenticated: [findings:read]    # what any valid key may do; default: nothing
    roles:                            # scopes are roles too
      "read:findings":
        description: Read findings.   # for people
        includes: [other]             # default: none
        rules:
          - actions: [findings:read, "*:read", "findings:*"]
            resources: ["findings/*"] # default: every resource
            effect: ALLOW             # or DENY; default: ALLOW

Its shape is checked where the file is read; its meaning is checked here. Every problem names the place in the
document, e.g. `roles.read:findings.rules[0].actions[1]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import KeyspaceInvalid
from .model import Ceiling
from .policy import EVERYTHING, Effect, Keyspace, Pattern, Role, Rule, Source

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
PREFIX = re.compile(r"(?=.{1,40}$)[a-z][a-z0-9]*(?:_[a-z0-9]+)*", re.ASCII)
ENVIRONMENT = re.compile(r"[a-z][a-z0-9]{0,15}", re.ASCII)
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", re.ASCII)
ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,127}", re.ASCII)
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)
DEFAULT_MASK = "{prefix}_{environment}_…{last4}"

Document = Mapping[str, Any]


def compile_keyspace(
    document: Document, *, source: str = "", operator: str = "", relations: frozenset[str] = frozenset()
) -> Keyspace:
    """Compile *document*; *relations* are those that its rules may ask for. Raises KeyspaceInvalid."""
    types = {name: tuple(verbs) for name, verbs in document["types"].items()}
    _check_types(types)
    environments = tuple(document.get("environments") or ("live",))
    _check_each("environments", environments, ENVIRONMENT)
    ceilings = tuple(Ceiling(word.upper()) for word in document.get("ceilings") or ("list",))
    inherits = bool(document.get("inherit", False))
    if Ceiling.OWNER in ceilings and not inherits:
        raise KeyspaceInvalid("ceilings", "'owner' needs 'inherit: true'")
    keyspace = Keyspace(
        name=_matching("keyspace", document["keyspace"], NAME),
        display_name=document.get("display_name") or document["keyspace"],
        prefix=_matching("prefix", document["prefix"], PREFIX),
        environments=environments,
        sources=tuple(_source(f"credentials[{i}]", entry) for i, entry in enumerate(document["credentials"])),
        mask=_mask(document.get("mask") or DEFAULT_MASK),
        requires_organization=document.get("organization", "key") == "required",
        inherits=inherits,
        ceilings=ceilings,
        types=types,
        roles=_Roles(document.get("roles") or {}, types, relations).compiled(),
        authenticated=frozenset(document.get("authenticated") or ()),
        source=source,
        operator=operator,
    )
    for i, permission in enumerate(document.get("authenticated") or ()):
        if permission not in keyspace.permissions:
            raise KeyspaceInvalid(f"authenticated[{i}]", f"{permission!r} is not declared under types")
    return keyspace


class _Roles:
    """The roles of one document, each compiled once all that it includes is."""

    def __init__(self, documents: Document, types: Mapping[str, tuple[str, ...]], relations: frozenset[str]) -> None:
        self._documents = documents
        self._types = types
        self._relations = relations
        self._permissions = [f"{type}:{verb}" for type, verbs in types.items() for verb in verbs]
        self._compiled: dict[str, Role] = {}

    def compiled(self) -> dict[str, Role]:
        for name in self._documents:
            _matching(f"roles.{name}", name, ROLE)
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
        )

    def _rule(self, name: str, index: int, place: str, document: Document) -> Rule:
        relation = document.get("relation") or ""
        if relation and relation not in self._relations:
            raise KeyspaceInvalid(f"{place}.relation", f"{relation!r} is not a relation that rules here can ask for")
        resources = tuple(
            self._pattern(f"{place}.resources[{i}]", text) for i, text in enumerate(document.get("resources") or ())
        )
        return Rule(Effect(document.get("effect") or "ALLOW"), resources or (EVERYTHING,), relation, name, index)

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


def _source(place: str, document: Document) -> Source:
    header, query = document.get("header") or "", document.get("query") or ""
    if bool(header) == bool(query):
        raise KeyspaceInvalid(place, "must have either 'header' or 'query'")
    if query and document.get("scheme"):
        raise KeyspaceInvalid(f"{place}.scheme", "goes with 'header', not with 'query'")
    if header:
        _matching(f"{place}.header", header, HEADER)
    return Source(header=header.lower(), scheme=(document.get("scheme") or "").lower(), query=query)


def _check_types(types: Mapping[str, tuple[str, ...]]) -> None:
    _check_each("types", types, WORD)
    for type, verbs in types.items():
        _check_each(f"types.{type}", verbs, WORD)


def _check_each(place: str, words: Iterable[str], shape: re.Pattern[str]) -> None:
    seen: set[str] = set()
    for i, word in enumerate(words):
        _matching(f"{place}[{i}]", word, shape)
        if word in seen:
            raise KeyspaceInvalid(f"{place}[{i}]", f"{word!r} stands here twice")
        seen.add(word)


def _matching(place: str, word: str, shape: re.Pattern[str]) -> str:
    if not shape.fullmatch(word):
        raise KeyspaceInvalid(place, f"{word!r} must be of the form {shape.pattern}")
    return word


def _mask(template: str) -> str:
    if "{last4}" not in template:
        raise KeyspaceInvalid("mask", "must contain {last4}")
    return template
