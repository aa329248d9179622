"""Compiling a keyspace document into a `Keyspace`.

The document is what the YAML file says, as plain mappings and lists:

    keyspace: aiia                    # name; required
    display_name: AIIA                # default: the name
    prefix: aiia_key                  # what opaque key texts begin with; required for those, fixed for good
    environments: [live, test]        # the default one first; default: [live]; may grow, not shrink
    credentials:                      # where callers put keys; required
      - {header: Authorization, scheme: ApiKey}
      - {query: api_key}
    organization: required            # must Authorize name it, or is it the key's own: required | key (default)
    inherit: false                    # may a key with an owner do at most what the owner may? default: false
    ceilings: [list]                  # allowed ceilings, the default one first: list, owner; default: [list]
    mask: "•••••{last4}"              # for display; default: "{prefix}_{environment}_…{last4}"
    format: opaque                    # of the texts that are made: opaque (default), uuid, jwt; fixed for good
    algorithm: EdDSA                  # of jwt: EdDSA (default), HS256
    verifier: hmac-sha256             # or bcrypt-sha256, where rules demand an adaptive hash
    serve_stale: true                 # while the store is lost, may the operator's DOORWARD_SERVE_STALE_FOR hold?
    recoverable: false                # keep the texts, sealed, so that RevealKey can show them again
    legacy:                           # formats of texts that another system made and that are imported
      - {name: old, prefix: "sk_", alphabet: hex, length: [32, 40], entropy_bits: 128, lookup: 8}
    keys:                             # guard rails, all optional; see `rails`. Spans: 12h, 90d, 1y (365 days)
      owner: required                 # required, optional (default), none
      made_by: [owner]                # owner, administrator; default: both. Whoever is not the owner, or a backend
      ended_by: [owner]               #   that acts for it, is an administrator
      name: {pattern: "*-live"}       # * stands for any text
      types: [production, ci]         # the only types; default: any. Then every key must have one
      default_type: {live: production}   # by environment, for keys that are made without one
      scopes:                         # with bindings, of keys whose ceiling is a list
        min: 1
        max: 1
        environments: {test: [read]}  # only these roles there; what is not named may have all
      expiry:
        need: required                # required, optional (default), forbidden
        default: 90d                  # for keys that are made without a word about it
        maximum: 365d                 # from now, whenever one is set; then never is too long
        allowed: [30d, 90d, 1y]       # the only spans
        custom: false                 # may it also be an instant or a date? default: true
      active_per_owner: {maximum: 1, on_exceed: revoke_oldest}   # or reject (default)
      rotation: {every: 90d, types: {ci: 30d}}                   # when Key.rotate_by is, by type
      api_version: "2026-02-01"       # pinned to each key when it is made
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
from .formats import Format, compile_legacy
from .model import DAY, Ceiling
from .policy import EVERYTHING, Effect, Keyspace, Pattern, Role, Rule, Source
from .rails import API_VERSION, TYPE, Exceed, Hand, Need, Rails

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
PREFIX = re.compile(r"(?=.{1,40}$)[a-z][a-z0-9]*(?:_[a-z0-9]+)*", re.ASCII)
ENVIRONMENT = re.compile(r"[a-z][a-z0-9]{0,15}", re.ASCII)
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}", re.ASCII)
ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,127}", re.ASCII)
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)
DEFAULT_MASK = "{prefix}_{environment}_…{last4}"
MAX_SPAN = 100 * 365 * DAY
SPAN = re.compile(r"([1-9][0-9]{0,3})([hdy])", re.ASCII)
PLAIN_MASK = "…{last4}"

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
        prefix=_prefix(document),
        environments=environments,
        sources=tuple(_source(f"credentials[{i}]", entry) for i, entry in enumerate(document["credentials"])),
        mask=_mask(document.get("mask") or (DEFAULT_MASK if document.get("prefix") else PLAIN_MASK)),
        format=_format(document),
        legacy=compile_legacy(document.get("legacy") or ()),
        verifier=document.get("verifier") or "hmac-sha256",
        algorithm=document.get("algorithm") or "EdDSA",
        recoverable=bool(document.get("recoverable", False)),
        serves_stale=bool(document.get("serve_stale", True)),
        requires_organization=document.get("organization", "key") == "required",
        inherits=inherits,
        ceilings=ceilings,
        types=types,
        roles=_Roles(document.get("roles") or {}, types, relations).compiled(),
        authenticated=frozenset(document.get("authenticated") or ()),
        rails=_rails(document.get("keys") or {}),
        source=source,
        operator=operator,
    )
    for i, permission in enumerate(document.get("authenticated") or ()):
        if permission not in keyspace.permissions:
            raise KeyspaceInvalid(f"authenticated[{i}]", f"{permission!r} is not declared under types")
    _check_rails(keyspace)
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


def _prefix(document: Document) -> str:
    if _format(document) is Format.OPAQUE:
        return _matching("prefix", document.get("prefix") or "", PREFIX)
    if document.get("prefix"):
        raise KeyspaceInvalid("prefix", "goes with the format 'opaque'")
    return ""


def _format(document: Document) -> Format:
    return Format((document.get("format") or "opaque").upper())


def _mask(template: str) -> str:
    if "{last4}" not in template:
        raise KeyspaceInvalid("mask", "must contain {last4}")
    return template


_UNITS = {"h": DAY // 24, "d": DAY, "y": 365 * DAY}
_NEEDS = {"required": Need.REQUIRED, "optional": Need.OPTIONAL, "none": Need.FORBIDDEN, "forbidden": Need.FORBIDDEN}


def _rails(document: Document) -> Rails:
    scopes, expiry, active, rotation, name = (
        document.get(part) or {} for part in ("scopes", "expiry", "active_per_owner", "rotation", "name")
    )
    types = tuple(document.get("types") or ())
    _check_each("keys.types", types, TYPE)
    version = document.get("api_version") or ""
    return Rails(
        owner=_NEEDS[document.get("owner") or "optional"],
        min_scopes=scopes.get("min") or 0,
        max_scopes=scopes.get("max"),
        scopes_by_environment={it: frozenset(roles) for it, roles in (scopes.get("environments") or {}).items()},
        expiry=_NEEDS[expiry.get("need") or "optional"],
        default_lifetime=_maybe_span("keys.expiry.default", expiry.get("default")),
        max_lifetime=_maybe_span("keys.expiry.maximum", expiry.get("maximum")),
        lifetimes=_lifetimes(expiry.get("allowed")),
        custom_expiry=expiry.get("custom", True),
        max_active_per_owner=active.get("maximum"),
        on_exceed=Exceed((active.get("on_exceed") or "reject").upper()),
        made_by=_hands(document.get("made_by")),
        ended_by=_hands(document.get("ended_by")),
        name_pattern=name.get("pattern") or "",
        types=types,
        default_types=dict(document.get("default_type") or {}),
        rotate_every=_maybe_span("keys.rotation.every", rotation.get("every")),
        rotate_every_by_type={
            type: _span(f"keys.rotation.types.{type}", text) for type, text in (rotation.get("types") or {}).items()
        },
        api_version=version and _matching("keys.api_version", version, API_VERSION),
    )


def _maybe_span(place: str, text: str | None) -> int | None:
    return None if text is None else _span(place, text)


def _span(place: str, text: str) -> int:
    match = SPAN.fullmatch(text)
    span = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < span <= MAX_SPAN:
        raise KeyspaceInvalid(place, f"{text!r} must be a span like 12h, 90d or 1y, at most 100y")
    return span


def _lifetimes(texts: Iterable[str] | None) -> frozenset[int] | None:
    if texts is None:
        return None
    return frozenset(_span(f"keys.expiry.allowed[{i}]", text) for i, text in enumerate(texts))


def _hands(words: Iterable[str] | None) -> frozenset[Hand]:
    return frozenset(Hand) if words is None else frozenset(Hand(word.upper()) for word in words)


def _check_rails(keyspace: Keyspace) -> None:
    """Refuse guard rails that contradict each other, or name what the keyspace does not have."""
    rails = keyspace.rails
    if rails.max_scopes is not None and rails.max_scopes < rails.min_scopes:
        raise KeyspaceInvalid("keys.scopes.max", f"must be at least keys.scopes.min, {rails.min_scopes}")
    for environment, roles in rails.scopes_by_environment.items():
        place = f"keys.scopes.environments.{environment}"
        _known(place, "environment", environment, keyspace.environments)
        for role in sorted(roles):
            _known(place, "role", role, keyspace.roles)
    for environment, type in rails.default_types.items():
        _known(f"keys.default_type.{environment}", "environment", environment, keyspace.environments)
        _check_key_type(f"keys.default_type.{environment}", type, rails)
    for type in rails.rotate_every_by_type:
        _check_key_type(f"keys.rotation.types.{type}", type, rails)
    if rails.owner is Need.FORBIDDEN:
        for place, needs_owner in (
            ("keys.active_per_owner", rails.max_active_per_owner is not None),
            ("keys.made_by", Hand.ADMINISTRATOR not in rails.made_by),
            ("ceilings", Ceiling.OWNER in keyspace.ceilings),
        ):
            if needs_owner:
                raise KeyspaceInvalid(place, "needs keys with owners, and keys.owner is 'none'")
    _check_lifetimes(rails)


def _check_lifetimes(rails: Rails) -> None:
    spans = {"default": rails.default_lifetime, "maximum": rails.max_lifetime, "allowed": rails.lifetimes}
    for word, given in spans.items():
        if rails.expiry is Need.FORBIDDEN and given is not None:
            raise KeyspaceInvalid(
                f"keys.expiry.{word}", "goes with keys that expire, and keys.expiry.need is 'forbidden'"
            )
    longest = max(rails.lifetimes or (), default=0)
    if rails.max_lifetime is not None and longest > rails.max_lifetime:
        raise KeyspaceInvalid("keys.expiry.allowed", "must not be longer than keys.expiry.maximum")
    default = rails.default_lifetime
    if default is not None and rails.max_lifetime is not None and default > rails.max_lifetime:
        raise KeyspaceInvalid("keys.expiry.default", "must not be longer than keys.expiry.maximum")
    if default is not None and rails.lifetimes is not None and default not in rails.lifetimes:
        raise KeyspaceInvalid("keys.expiry.default", "must be one of keys.expiry.allowed")


def _known(place: str, kind: str, word: str, known: Iterable[str]) -> None:
    if word not in known:
        raise KeyspaceInvalid(place, f"there is no {kind} {word!r}")


def _check_key_type(place: str, type: str, rails: Rails) -> None:
    _matching(place, type, TYPE)
    if rails.types:
        _known(place, "type", type, rails.types)
