"""Compiling a keyspace document into a `Keyspace`.

The document is what the YAML file says, as plain mappings and lists:

    keyspace: aiia                    # name; required
    display_name: AIIA                # default: the name
    prefix: aiia_key                  # what opaque key texts begin with; required for those, fixed for good
    environments: [live, test]        # the default one first; default: [live]
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
    fail_open: true                   # while no server answers, may a caller's on_unavailable="allow" hold?
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
        selective: [flow-access]      # roles that take a binding whose resources are named one by one
      expiry:
        need: required                # required, optional (default), forbidden
        default: 90d                  # for keys that are made without a word about it
        maximum: 365d                 # from now, whenever one is set; then never is too long
        allowed: [30d, 90d, 1y]       # the only spans
        custom: false                 # may it also be an instant or a date? default: true
      active_per_owner: {maximum: 1, on_exceed: revoke_oldest}   # or reject (default)
      rotation: {every: 90d, types: {ci: 30d}, overlap: false}   # when Key.rotate_by is, by type; may texts overlap
      api_version: "2026-02-01"       # pinned to each key when it is made
    types:                            # resource types and their verbs; required
      findings: [read, create]
    authenticated: [findings:read]    # what any valid key may do; default: nothing
    relations:                        # that may be had to resources, by type: stored, or sent with a request
      findings: [assigned]
    parents: {findings: audits}       # the type, or a list of types, that a resource's parent has
    attributes:                       # what conditions may read besides what is there anyway (`declarations.BUILT_IN`)
      organization: {plan: string}    # types: string, int, float, bool, strings, timestamp (RFC 3339 text)
      principal: {level: int}
      key: {tier: string}             # of its metadata
      resource: {findings: {open: bool}}   # of its parent, too: parent.open
      context: {mfa: bool}
    api_version: {header: X, versions: ["2026-02-01"]}      # see `api_versions`
    leaks: {policy: alert}            # or disable, revoke: what becomes of a key whose text was found (ReportLeak)
    http: {}                          # what an HTTP service answers; see `http_profile`
    limits: {}                        # and credits, alerts, usage, decision_log: see `sections`; routes: see `routes`
    roles:                            # scopes are roles too
      "read:findings":
        description: Read findings.   # for people
        includes: [other]             # default: none
        rules:
          - actions: [findings:read, "*:read", "findings:*"]
            resources: ["findings/*"] # default: every resource
            effect: ALLOW             # or DENY; default: ALLOW
            relation: assigned        # to the resource; parent.assigned, or {name: assigned, on: parent}: to its parent
            condition: "resource.open && in_network(context.client_ip, '10.0.0.0/8')"     # CEL; see service.conditions

Its shape is checked where the file is read; its meaning is checked here. Every problem names the place in the
document, e.g. `roles.read:findings.rules[0].actions[1]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .api_versions import compile_api_versions
from .declarations import Declared, compile_declared, compile_parents, compile_relations
from .errors import KeyspaceInvalid
from .formats import Format, compile_legacy
from .http_profile import compile_http
from .leaks import LeakPolicy
from .model import Ceiling
from .policy import Conditions, Keyspace, NoConditions, Source
from .rails_document import check_rails, compile_rails
from .roles import Roles
from .sections import Sections, compile_sections
from .words import ENVIRONMENT, HEADER, NAME, PREFIX, WORD, Document, check_each, matching

DEFAULT_MASK = "{prefix}_{environment}_…{last4}"
PLAIN_MASK = "…{last4}"


def compile_keyspace(
    document: Document,
    *,
    source: str = "",
    operator: str = "",
    relations: frozenset[str] = frozenset(),
    conditions: Callable[[Declared], Conditions] | None = None,
) -> Keyspace:
    """Compile *document*. Raises KeyspaceInvalid.

    *relations* are those that its rules may ask for although it declares them for no type; *conditions* makes what
    compiles its conditions: without, there are none.
    """
    types = {name: tuple(verbs) for name, verbs in document["types"].items()}
    _check_types(types)
    declared = compile_declared(document.get("attributes") or {}, types)
    compiler = conditions(declared) if conditions else NoConditions()
    related = compile_relations(document.get("relations") or {}, types)
    parents = compile_parents(document.get("parents") or {}, types)
    keyspace = Keyspace(
        name=matching("keyspace", document["keyspace"], NAME),
        display_name=document.get("display_name") or document["keyspace"],
        **_texts(document),
        serves_stale=bool(document.get("serve_stale", True)),
        fail_open=bool(document.get("fail_open", True)),
        leak_policy=LeakPolicy((document.get("leaks") or {}).get("policy", "alert").upper()),
        requires_organization=document.get("organization", "key") == "required",
        inherits=bool(document.get("inherit", False)),
        ceilings=tuple(Ceiling(word.upper()) for word in document.get("ceilings") or ("list",)),
        types=types,
        roles=Roles(document.get("roles") or {}, types, related, parents, compiler, given=relations).compiled(),
        authenticated=frozenset(document.get("authenticated") or ()),
        rails=compile_rails(document.get("keys") or {}),
        declared=declared,
        relations=related,
        parents=parents,
        conditions=compiler,
        http=compile_http(document.get("http"), document["credentials"], document["keyspace"]),
        source=source,
        operator=operator,
    )
    _check_whole(document, keyspace)
    sections = compile_sections(document, keyspace)
    return replace(
        keyspace,
        api_versions=compile_api_versions(document.get("api_version"), keyspace.rails.api_version),
        sections=sections,
        fail_open=keyspace.fail_open and not _needs_a_server(keyspace, sections),
    )


def _needs_a_server(keyspace: Keyspace, sections: Sections) -> bool:
    """Whether consent without a server's answer would break a promise, whatever the file says.

    Nobody would record it, or take credits for it; and where a proof takes long, whoever is asked about can bring about
    that no answer comes in time.
    """
    slow = keyspace.verifier != "hmac-sha256" or bool(keyspace.legacy)  # imported hashes may be bcrypt's
    return sections.decision_log.everything or sections.credits is not None or slow


def _texts(document: Document) -> dict[str, Any]:
    """Compile what the texts of keys look like, where they stand, and how they are kept."""
    return {
        "prefix": _prefix(document),
        "environments": _environments(document),
        "sources": tuple(_source(f"credentials[{i}]", entry) for i, entry in enumerate(document["credentials"])),
        "mask": _mask(document.get("mask") or (DEFAULT_MASK if document.get("prefix") else PLAIN_MASK)),
        "format": _format(document),
        "legacy": compile_legacy(document.get("legacy") or ()),
        "verifier": document.get("verifier") or "hmac-sha256",
        "algorithm": document.get("algorithm") or "EdDSA",
        "recoverable": bool(document.get("recoverable", False)),
    }


def _check_whole(document: Document, keyspace: Keyspace) -> None:
    """Refuse parts that do not go together."""
    if Ceiling.OWNER in keyspace.ceilings and not keyspace.inherits:
        raise KeyspaceInvalid("ceilings", "'owner' needs 'inherit: true'")
    for i, permission in enumerate(document.get("authenticated") or ()):
        if permission not in keyspace.permissions:
            raise KeyspaceInvalid(f"authenticated[{i}]", f"{permission!r} is not declared under types")
    check_rails(keyspace)


def _environments(document: Document) -> tuple[str, ...]:
    environments = tuple(document.get("environments") or ("live",))
    check_each("environments", environments, ENVIRONMENT)
    return environments


def _source(place: str, document: Document) -> Source:
    header, query = document.get("header") or "", document.get("query") or ""
    if bool(header) == bool(query):
        raise KeyspaceInvalid(place, "must have either 'header' or 'query'")
    if query and document.get("scheme"):
        raise KeyspaceInvalid(f"{place}.scheme", "goes with 'header', not with 'query'")
    if header:
        matching(f"{place}.header", header, HEADER)
    if document.get("scheme"):
        matching(f"{place}.scheme", document["scheme"], HEADER)
    return Source(header=header.lower(), scheme=(document.get("scheme") or "").lower(), query=query)


def _check_types(types: Mapping[str, tuple[str, ...]]) -> None:
    check_each("types", types, WORD)
    for type, verbs in types.items():
        check_each(f"types.{type}", verbs, WORD)


def _prefix(document: Document) -> str:
    if _format(document) is Format.OPAQUE:
        return matching("prefix", document.get("prefix") or "", PREFIX)
    if document.get("prefix"):
        raise KeyspaceInvalid("prefix", "goes with the format 'opaque'")
    return ""


def _format(document: Document) -> Format:
    return Format((document.get("format") or "opaque").upper())


def _mask(template: str) -> str:
    if "{last4}" not in template:
        raise KeyspaceInvalid("mask", "must contain {last4}")
    return template
