"""The shape of a keyspace file: which words may stand where, and what kind of value each takes.

What the words mean is documented and checked in `core.keyspace` and the modules that it calls. The JSON Schema for
editors is made from this shape, the strings below the fields included (`keyspace_schema`).
"""

# ruff: noqa: RUF012  # Pydantic gives each value a copy of its own

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from doorward_server.service.keyspace_cases import Case, Shape, Words
from doorward_server.service.keyspace_cases import ShortText as Text

Kind = Literal["string", "int", "float", "bool", "strings", "timestamp"]
Declared = Annotated[dict[str, Kind], Field(max_length=100)]
Span = Annotated[str, Field(max_length=8)]
Duration = Annotated[str, Field(max_length=8)]
Credit = Annotated[int, Field(ge=0, le=1_000_000_000_000_000)]
Hands = Annotated[list[Literal["owner", "administrator"]], Field(min_length=1, max_length=2)]


class Credential(Shape):
    header: Text = ""
    """Name of the HTTP header, in any case."""
    scheme: Text = ""
    """Word before the key in the header, in any case, e.g. Bearer; none: the header holds nothing else."""
    query: Text = ""
    """Instead of a header: name of the query parameter."""


class Attributes(Shape):
    organization: Declared = {}
    principal: Declared = {}
    """Besides id, kind and email, which every principal has."""
    key: Declared = {}
    """Of the key's metadata."""
    resource: Annotated[dict[str, Declared], Field(max_length=200)] = {}
    """By resource type."""
    context: Declared = {}
    """What callers may send with a question, besides time and client_ip."""


class RelationOn(Shape):
    name: Text
    on: Literal["resource", "parent"] = "resource"


class Rule(Shape):
    effect: Literal["ALLOW", "DENY"] = "ALLOW"
    """DENY beats every ALLOW."""
    actions: Annotated[list[Text], Field(min_length=1, max_length=1000)]
    """Permissions, e.g. findings:read; "findings:*" and "*:read" stand for all that are declared under types."""
    resources: Annotated[list[Text], Field(max_length=100)] = []
    """Patterns, e.g. findings/*; none: every resource."""
    relation: Text | RelationOn = ""
    """Relation that the principal must have to the resource, or to its parent: assigned, parent.assigned."""
    condition: Text = ""
    """CEL over organization, principal, key, resource, parent and context."""


class Role(Shape):
    description: Text = ""
    includes: Words = []
    """Roles whose rules it has besides its own."""
    rules: Annotated[list[Rule], Field(max_length=1000)] = []


class Legacy(Shape):
    name: Text
    prefix: Text = ""
    alphabet: Literal["digits", "hex", "base32", "base62", "base64url", "print"]
    length: int | Annotated[list[int], Field(min_length=2, max_length=2)]
    """Characters behind the prefix: a number, or [shortest, longest]."""
    entropy_bits: int
    """Random bits that its makers vouch for."""
    lookup: Annotated[int, Field(ge=0, le=64)] = 0
    """So many characters behind the prefix find a key; 0: the whole text does."""


class Name(Shape):
    pattern: Annotated[str, Field(min_length=1, max_length=200)]
    """What names must look like; * stands for any text."""


class Scopes(Shape):
    min: Annotated[int, Field(ge=0, le=200)] = 0
    max: Annotated[int, Field(ge=0, le=200)] | None = None
    environments: Annotated[dict[str, Words], Field(max_length=20)] = {}
    """Environments in which only these roles may be had."""
    selective: Words = []
    """Roles that take a binding whose resources are named one by one."""


class Expiry(Shape):
    need: Literal["required", "optional", "forbidden"] = "optional"
    default: Span | None = None
    maximum: Span | None = None
    allowed: Annotated[list[Span], Field(min_length=1, max_length=20)] | None = None
    custom: bool = True
    """May it also be an instant or a date."""


class ActivePerOwner(Shape):
    maximum: Annotated[int, Field(ge=1, le=1000)]
    on_exceed: Literal["reject", "revoke_oldest"] = "reject"


class Rotation(Shape):
    every: Span | None = None
    types: Annotated[dict[str, Span], Field(max_length=100)] = {}
    overlap: bool = True
    """May older secrets go on working for a grace; false: a new one ends them at once."""


class Keys(Shape):
    """Guard rails: what keys must be like."""

    owner: Literal["required", "optional", "none"] = "optional"
    made_by: Hands | None = None
    """Whoever is not the owner is an administrator; default: both."""
    ended_by: Hands | None = None
    name: Name | None = None
    types: Annotated[list[Text], Field(max_length=100)] = []
    """The only types there are; none: any."""
    default_type: Annotated[dict[str, Text], Field(max_length=20)] = {}
    """By environment, for keys that are made without a type."""
    scopes: Scopes = Scopes()
    """How many scopes and bindings a key has."""
    expiry: Expiry = Expiry()
    active_per_owner: ActivePerOwner | None = None
    rotation: Rotation = Rotation()
    """When a key's newest secret should be replaced."""
    api_version: Text = ""
    """Pinned to each key when it is made."""


class ApiVersion(Shape):
    header: Text
    """Request header that names another version than the one that is pinned to the key."""
    versions: Annotated[list[Text], Field(min_length=1, max_length=200)]
    """The versions there are."""


class Answer(Shape):
    status: int | None = None
    """200 to 299 for what is allowed, 400 to 499 for denials."""
    headers: Annotated[dict[str, Text], Field(max_length=20)] | None = None
    body: Any = None
    """Text, sent as it is, or any other value, sent as JSON; {reason}, {message} and {missing} are filled in."""


class Window(Shape):
    per: Literal["key", "owner", "organization", "key_and_resource"] = "key"
    limit: Annotated[int, Field(ge=0, le=1_000_000_000_000)]
    window: Duration
    actions: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None
    """What is counted; none: everything."""


class Limits(Shape):
    """See docs/limits.md."""

    on_store_loss: Literal["refuse", "allow"] = "refuse"
    costs: Annotated[dict[str, Annotated[int, Field(ge=0, le=1_000_000)]], Field(max_length=1000)] = {}
    """Units that one call takes, by action; else 1."""
    windows: Annotated[dict[str, Window], Field(max_length=50)] = {}


class Refill(Shape):
    amount: Annotated[int, Field(ge=1, le=1_000_000_000_000_000)]
    """What each refill gives."""
    period: Duration
    mode: Literal["add", "reset"] = "add"
    """Is it added to what is left, or does it take its place."""
    most: Credit | None = None
    """A balance that is added to grows no further; none: a thousand million million."""


class Credits(Shape):
    """See docs/credits.md."""

    per: Literal["key", "owner", "organization"] = "key"
    """Whose calls use up one balance."""
    initial: Credit = 0
    """What a balance begins with."""
    refill: Refill | None = None
    costs: Annotated[dict[str, Annotated[int, Field(ge=0, le=1_000_000)]], Field(max_length=1000)] = {}
    """Credits that one call takes, by action; else 1."""


class Alert(Shape):
    when: Literal[
        "failed_authentication", "unusual_activity", "limit_nearly_used", "expiring", "unused", "rotation_overdue",
        "superseded_used", "leaked",
    ]  # fmt: skip
    per: Literal["key", "address", "prefix"] | None = None
    count: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    window: Duration | None = None
    factor: Annotated[float, Field(gt=1, le=1000, allow_inf_nan=False)] | None = None
    percent: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=1, max_length=10)] | None = None
    before: Annotated[list[Duration], Field(min_length=1, max_length=10)] | None = None
    after: Duration | None = None


class Usage(Shape):
    """See docs/usage.md."""

    keep: Duration | None = None


class DecisionLog(Shape):
    """See docs/usage.md."""

    record: Literal["all", "sampled"] = "sampled"
    sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """Part of the allowed ones that is recorded; denials always are."""
    to: Annotated[list[Literal["store", "file", "stdout"]], Field(min_length=1, max_length=3)] | None = None
    keep: Duration | None = None


class Leaks(Shape):
    policy: Literal["alert", "disable", "revoke"] = "alert"
    """What becomes of a key whose text is reported to have been found."""


class Route(Shape):
    match: Text
    """Method and path, e.g. GET /flows/{id}; a method * is any."""
    action: Text
    resource: Text = ""
    """E.g. flows/{id}; none: the collection of the action's type."""


class Document(Shape):
    """One API product whose keys Doorward keeps."""

    keyspace: Text
    """Its name."""
    display_name: Text = ""
    description: Text = ""
    prefix: Text = ""
    """What opaque key texts begin with, e.g. aiia_key; fixed for good."""
    environments: Annotated[list[Text], Field(min_length=1, max_length=20)] = ["live"]
    """The default one first."""
    credentials: Annotated[list[Credential], Field(min_length=1, max_length=20)]
    """Where callers put their keys; nothing is looked for anywhere else."""
    organization: Literal["required", "key"] = "key"
    """Must Authorize name the organization that owns the resource, or is it the key's own."""
    inherit: bool = False
    """May a key with an owner do at most what the owner may, as of now."""
    ceilings: Annotated[list[Literal["list", "owner"]], Field(min_length=1, max_length=2)] = ["list"]
    """Allowed ceilings, the default one first."""
    mask: Text = ""
    """For display, e.g. •••••{last4}."""
    format: Literal["opaque", "uuid", "jwt"] = "opaque"
    """Of the texts that are made; fixed for good."""
    algorithm: Literal["EdDSA", "HS256"] = "EdDSA"
    """Of JWTs."""
    verifier: Literal["hmac-sha256", "bcrypt-sha256"] = "hmac-sha256"
    recoverable: bool = False
    """Are the texts kept, sealed, so that RevealKey can show them again."""
    serve_stale: bool = True
    """May a replica that has lost the store answer from what it knew, where its operator allows that."""
    fail_open: bool = True
    """May a caller that has asked for that take consent for an answer while no server can be asked."""
    legacy: Annotated[list[Legacy], Field(max_length=20)] = []
    """Formats of texts that another system made and that are imported."""
    keys: Keys = Keys()
    types: Annotated[dict[str, Words], Field(min_length=1, max_length=200)]
    """Resource types and the verbs of each."""
    parents: Annotated[
        dict[str, Text | Annotated[list[Text], Field(min_length=1, max_length=20)]], Field(max_length=200)
    ] = {}
    """By type: the type, or types, of the resource that one belongs to."""
    relations: Annotated[dict[str, Words], Field(max_length=200)] = {}
    """By type: relations that principals can have to its resources."""
    attributes: Attributes = Attributes()
    """What conditions can read, and of which kind it is."""
    authenticated: Words = []
    """Permissions that any good key has."""
    roles: Annotated[dict[str, Role], Field(max_length=500)] = {}
    """Roles, scopes among them."""
    api_version: ApiVersion | None = None
    """How a request names the API version that it speaks."""
    http: Annotated[dict[str, Answer], Field(max_length=50)] = {}
    """What an HTTP service answers, by reason or group: denied, allowed, unauthenticated, unauthorized, limited."""
    limits: Limits = Limits()
    credits: Credits | None = None
    alerts: Annotated[dict[str, Alert], Field(max_length=50)] = {}
    """See docs/alerts.md."""
    usage: Usage = Usage()
    decision_log: DecisionLog = DecisionLog()
    leaks: Leaks = Leaks()
    routes: Annotated[list[Route], Field(max_length=1000)] = []
    """Which HTTP request asks for which action on which resource; checked and kept, not used yet."""
    tests: Annotated[list[Case], Field(max_length=1000)] = []
    """Questions with the decisions that are expected; a keyspace whose tests fail is not applied."""
