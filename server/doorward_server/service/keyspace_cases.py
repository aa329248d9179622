"""The shape of `tests:` in a keyspace file: who is given, what is asked, what is expected.

    tests:
      - name: reading is not writing
        given:
          key: {scopes: [read]}                 # or principal, or both: then the key is the principal's
        ask: {action: scans:create}
        expect: SCOPE_INSUFFICIENT              # a reason, ALLOW or DENY, or {decision, reason, status, missing, …}
      - name: an assessor sees what they are assigned to
        given:
          principal: {id: ann, bindings: [{role: assessor}], groups: [red-team]}
          key: {ceiling: owner}
          resources: {vulnerabilities/7: {parent: assessments/42, attributes: {fixed: false}}}
          relations: ["assessments/42#assigned@user:ann"]
        ask: {at: "2026-03-01T12:00:00Z", client_ip: 10.0.0.1}
        table:                                  # several at once: action, and resource if there is one
          vulnerabilities:get vulnerabilities/7: ALLOW
          assessments:get assessments/43: RELATION_MISSING

What is not given is as plain as can be: the organization `acme`, the keyspace's default environment and ceiling, a key
that is good, no relation, no attribute. Time stands still at `ask.at`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

NOON = "2026-01-01T12:00:00Z"


class Shape(BaseModel):
    """Words that stand in a keyspace file; others are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, frozen=True)


ShortText = Annotated[str, Field(max_length=2000)]
Words = Annotated[list[ShortText], Field(max_length=1000)]
Scalar = str | int | float | bool | list[str]
Values = Annotated[dict[str, Scalar], Field(max_length=100)]


class GivenBinding(Shape):
    role: ShortText
    resources: Words = []
    """Patterns; none: every resource."""
    not_before: ShortText | None = None
    expires_at: ShortText | None = None
    condition: ShortText = ""


class GivenOrganization(Shape):
    id: ShortText = "acme"
    attributes: Values = {}
    enabled: bool = True


class GivenPrincipal(Shape):
    id: ShortText = "somebody"
    kind: Literal["user", "service_account"] = "user"
    email: ShortText = ""
    attributes: Values = {}
    bindings: Annotated[list[GivenBinding], Field(max_length=200)] = []
    """Its own and those of its groups."""
    groups: Words = []
    """All that it is in, directly or not."""
    enabled: bool = True


class GivenKey(Shape):
    scopes: Words = []
    bindings: Annotated[list[GivenBinding], Field(max_length=200)] = []
    ceiling: Literal["list", "owner"] | None = None
    """None: list if it has scopes or bindings, else the keyspace's first."""
    environment: ShortText = ""
    type: ShortText = ""
    allowed_cidrs: Words = []
    metadata: Annotated[dict[str, ShortText], Field(max_length=100)] = {}
    api_version: ShortText = ""
    not_before: ShortText | None = None
    expires_at: ShortText | None = None
    enabled: bool = True
    revoked: bool = False


class GivenResource(Shape):
    attributes: Values = {}
    parent: ShortText = ""


class Given(Shape):
    """What the store holds."""

    organization: GivenOrganization = GivenOrganization()
    principal: GivenPrincipal | None = None
    key: GivenKey | None = None
    """None: the principal is one whom the service has signed in itself."""
    resources: Annotated[dict[str, GivenResource], Field(max_length=100)] = {}
    """By path, e.g. flows/abc."""
    relations: Words = []
    """E.g. assessments/42#assigned@user:ann, assessments/42#contact@group:red-team."""


class Http(Shape):
    headers: Annotated[dict[str, ShortText], Field(max_length=50)] = {}
    """{key} stands for the given key's text, {other} for one that nobody knows."""
    query: ShortText = ""
    """What follows the "?"."""


class Ask(Shape):
    """One question, as Authorize gets it."""

    action: ShortText = ""
    resource: ShortText = ""
    """Path, e.g. flows/abc; none: the collection of the action's type."""
    parent: ShortText = ""
    """Path of its parent, sent along."""
    attributes: Values = {}
    """Of the resource, sent along; what is stored counts more."""
    relations: Words = []
    """Sent along: assigned, parent.assigned, or as in given.relations."""
    organization: ShortText = ""
    """Owner of the resource; none: the key's own."""
    environment: ShortText = ""
    client_ip: ShortText = ""
    at: ShortText = NOON
    context: Values = {}
    http: Http | None = None
    """Find the key in these parts of a request; else it is presented as it is."""


class Expected(Shape):
    """What must be so; nothing that is left out is looked at."""

    decision: Literal["ALLOW", "DENY"] | None = None
    reason: ShortText | None = None
    status: int | None = None
    body: Any = None
    """Of the HTTP answer: text, or the value of its JSON."""
    missing: Words | None = None
    """Permissions that are missing."""
    missing_context: Words | None = None
    role: ShortText | None = None
    """The role whose rule decided."""
    api_version: ShortText | None = None


Expectation = ShortText | Expected


class Case(Shape):
    """One test."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    given: Given = Given()
    ask: Ask = Ask()
    expect: Expectation | None = None
    table: Annotated[dict[str, Expectation], Field(max_length=1000)] = {}
    """Several questions: "action" or "action resource", and what is expected of each."""
