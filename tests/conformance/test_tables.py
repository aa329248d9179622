"""Decision tables of the usual kinds: tenants and a deny, endpoints by role, lists of actions, lists of resources."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from doorward import KeyBinding, Reason, RequiredRelation, Selector
from tests.conformance.products import Credential, Customer, Desk, SignedIn

DOCUMENTS = """
keyspace: documents
prefix: doc
credentials: [{header: Authorization, scheme: Bearer}]
organization: required
inherit: true
ceilings: [list, owner]
types:
  documents: [list, read, write, share, delete]
  reports: [list, read]
parents: {reports: documents}
relations: {documents: [author]}
attributes:
  organization: {plan: string}
  resource: {documents: {archived: bool}}
roles:
  reader: {rules: [{actions: ["*:list", "*:read"]}]}
  writer: {includes: [reader], rules: [{actions: [documents:write]}]}
  author: {rules: [{actions: [documents:delete], relation: author}, {actions: [reports:read], relation: parent.author}]}
  owner: {includes: [writer], rules: [{actions: ["documents:*"]}]}
  suspended: {rules: [{effect: DENY, actions: ["*:write", "*:share", "*:delete"]}]}
  archive: {rules: [{effect: DENY, actions: [documents:write], condition: resource.archived}]}
  paid: {rules: [{actions: [documents:share], condition: organization.plan == "enterprise"}]}
"""


@dataclass(frozen=True)
class Tenants:
    """Two customers with people of the same names, and roles of their own."""

    acme: Customer
    globex: Customer

    def of(self, name: str) -> Customer:
        return self.acme if name == "acme" else self.globex


PEOPLE = {
    "acme": {"ann": ["owner"], "bob": ["writer"], "cyd": ["owner", "suspended"], "dan": [], "eve": ["author"]},
    "globex": {"ann": ["reader"], "bob": ["writer", "archive"], "cyd": ["paid"], "dan": ["owner"], "eve": ["reader"]},
}


@pytest.fixture(scope="module")
def tenants(desk: Desk) -> Tenants:
    product = desk.product(DOCUMENTS)
    tenants = Tenants(product.customer("acme", plan="free"), product.customer("globex", plan="enterprise"))
    for name, people in PEOPLE.items():
        for id, roles in people.items():
            tenants.of(name).person(*roles, id=id)
    tenants.acme.relate("documents/1#author@user:eve")
    tenants.acme.put("reports/9", parent="documents/1")
    tenants.globex.put("documents/2", archived=True)
    return tenants


# --- tenants, roles, a deny -------------------------------------------------------------------------------------------

LACKING = Reason.OWNER_PERMISSION_INSUFFICIENT
YES = Reason.ALLOWED
DECISIONS = [
    # who, action, resource, whose resource, expected
    ("acme/ann", "documents:delete", "documents/1", "acme", YES),
    ("acme/ann", "documents:read", "documents/1", "globex", Reason.ORGANIZATION_MISMATCH),
    ("acme/bob", "documents:write", "documents/1", "acme", YES),
    ("acme/bob", "documents:delete", "documents/1", "acme", LACKING),
    ("acme/cyd", "documents:read", "documents/1", "acme", YES),
    ("acme/cyd", "documents:write", "documents/1", "acme", Reason.DENIED_BY_RULE),
    ("acme/cyd", "documents:share", "documents", "acme", Reason.DENIED_BY_RULE),
    ("acme/dan", "documents:list", "documents", "acme", LACKING),
    ("acme/dan", "documents:list", "documents", "globex", Reason.ORGANIZATION_MISMATCH),
    ("acme/eve", "documents:delete", "documents/1", "acme", YES),
    ("acme/eve", "documents:delete", "documents/2", "acme", Reason.RELATION_MISSING),
    ("acme/eve", "reports:read", "reports/9", "acme", YES),
    ("acme/eve", "reports:read", "reports/8", "acme", Reason.RELATION_MISSING),
    ("globex/ann", "documents:read", "documents/1", "globex", YES),
    ("globex/ann", "documents:write", "documents/1", "globex", LACKING),
    ("globex/ann", "documents:read", "documents/1", "acme", Reason.ORGANIZATION_MISMATCH),
    ("globex/bob", "documents:write", "documents/2", "globex", Reason.DENIED_BY_RULE),
    # Whether it is archived is known neither to the store nor to the caller: a DENY counts then.
    ("globex/bob", "documents:write", "documents/3", "globex", Reason.DENIED_BY_RULE),
    ("globex/cyd", "documents:share", "documents/1", "globex", YES),
    ("globex/dan", "documents:share", "documents/1", "globex", YES),
    ("globex/eve", "documents:delete", "documents/1", "globex", LACKING),
]


@pytest.mark.parametrize("by", ["key", "principal"])
@pytest.mark.parametrize(("who", "action", "resource", "owner", "expected"), DECISIONS)
def test_tenants_with_roles_and_a_deny(
    tenants: Tenants, by: str, who: str, action: str, resource: str, owner: str, expected: Reason
) -> None:
    tenant, _, person = who.partition("/")
    customer = tenants.of(tenant)
    credential: Credential = SignedIn(person)
    if by == "key":
        wide = [KeyBinding(role) for role in ("owner", "author", "paid")]
        credential = customer.key(owner=person, bindings=wide)
    decision = customer.ask(credential, action, resource, organization=tenants.of(owner).id)
    assert decision.reason is expected
    assert bool(decision) == (expected is YES)


# --- endpoints × roles ------------------------------------------------------------------------------------------------

ENDPOINTS = """
keyspace: endpoints
prefix: ep
credentials: [{header: X-Key}]
inherit: true
types:
  users: [get, post, delete]
  orders: [get, post, cancel]
  health: [get]
authenticated: [health:get]
roles:
  clerk: {rules: [{actions: [orders:get, orders:post]}]}
  manager: {includes: [clerk], rules: [{actions: ["orders:*", users:get]}]}
  admin: {rules: [{actions: ["users:*"]}]}
  auditor: {rules: [{actions: ["*:get"]}]}
  nobody: {}
"""
TABLE = """
              clerk  manager  admin  auditor  nobody
users:get       -       +       +       +       -
users:post      -       -       +       -       -
users:delete    -       -       +       -       -
orders:get      +       +       -       +       -
orders:post     +       +       -       -       -
orders:cancel   -       +       -       -       -
health:get      +       +       +       +       +
"""
ROLES = TABLE.split("\n")[1].split()
ROWS = {row.split()[0]: dict(zip(ROLES, row.split()[1:], strict=True)) for row in TABLE.strip("\n").split("\n")[1:]}


@pytest.fixture(scope="module")
def shop(desk: Desk) -> Customer:
    return desk.product(ENDPOINTS).customer("shop")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("endpoint", ROWS)
@pytest.mark.parametrize("by", ["scope", "owner", "binding"])
def test_endpoints_by_role(shop: Customer, endpoint: str, role: str, by: str) -> None:
    credential: Credential
    match by:
        case "scope":
            credential = shop.key(role)
        case "binding":
            credential = shop.key(bindings=[KeyBinding(role)])
        case _:
            credential = SignedIn(shop.person(role))
    assert bool(shop.ask(credential, endpoint)) == (ROWS[endpoint][role] == "+")


@pytest.mark.parametrize("role", ROLES)
def test_the_actions_of_a_role_are_its_column(shop: Customer, role: str) -> None:
    listed = shop.actions(shop.key(role))
    assert listed.actions == tuple(sorted(endpoint for endpoint, row in ROWS.items() if row[role] == "+"))
    assert listed.reason is YES


# --- lists ------------------------------------------------------------------------------------------------------------

ACTIONS = [
    ("acme/ann", "documents/1", [f"documents:{it}" for it in ("delete", "list", "read", "share", "write")]),
    ("acme/bob", "documents/1", ["documents:list", "documents:read", "documents:write"]),
    ("acme/cyd", "documents/1", ["documents:list", "documents:read"]),
    ("acme/dan", "documents/1", []),
    ("acme/eve", "documents/1", ["documents:delete"]),
    ("acme/eve", "documents/2", []),
    ("acme/eve", "reports/9", ["reports:read"]),
    ("globex/bob", "documents/2", ["documents:list", "documents:read"]),
    ("globex/cyd", "documents/2", ["documents:share"]),
]  # fmt: skip


@pytest.mark.parametrize(("who", "resource", "expected"), ACTIONS)
def test_which_actions_somebody_may_do_to_a_resource(
    tenants: Tenants, who: str, resource: str, expected: list[str]
) -> None:
    tenant, _, person = who.partition("/")
    listed = tenants.of(tenant).actions(SignedIn(person), resource)
    assert list(listed.actions) == expected
    assert (listed.reason is YES) == bool(expected)


RESOURCES = [
    ("acme/ann", "documents:delete", [Selector("documents/*")], []),
    ("acme/dan", "documents:read", [], []),
    ("acme/eve", "documents:delete", [Selector("documents/*", (RequiredRelation("author"),))], []),
    ("acme/eve", "reports:read", [Selector("reports/*", (RequiredRelation("author", on_parent=True),))], []),
    ("acme/cyd", "documents:write", [Selector("documents/*")], [Selector("documents/*")]),
    ("globex/bob", "documents:write", [Selector("documents/*")], [Selector("documents/*", (), ("resource.archived",))]),
    ("globex/cyd", "documents:share", [Selector("documents/*")], []),
]


@pytest.mark.parametrize(("who", "action", "allowed", "denied"), RESOURCES)
def test_on_which_resources_somebody_may_do_something(
    tenants: Tenants, who: str, action: str, allowed: list[Selector], denied: list[Selector]
) -> None:
    tenant, _, person = who.partition("/")
    listed = tenants.of(tenant).resources(SignedIn(person), action)
    assert (list(listed.allowed), list(listed.denied)) == (allowed, denied)
    assert (listed.reason is YES) == bool(allowed)


def test_a_key_with_its_own_list_reaches_what_both_it_and_its_owner_reach(tenants: Tenants) -> None:
    acme = tenants.acme
    zoe = acme.person()
    acme.bind("writer", "documents/a/*", "documents/b", principal=zoe)
    key = acme.key(owner=zoe, bindings=[KeyBinding("writer", ["documents/*/1", "documents/b"])])
    listed = acme.resources(key, "documents:write")
    assert listed.allowed == (Selector("documents/a/1"), Selector("documents/b"))
    for resource, expected in {"a/1": True, "a/2": False, "b": True, "c/1": False, "a/1/1": False}.items():
        assert bool(acme.ask(key, "documents:write", f"documents/{resource}")) is expected


def test_a_bad_credential_reaches_nothing_and_is_told_why(tenants: Tenants) -> None:
    acme = tenants.acme
    for credential, reason in (("doc_nonsense", Reason.CREDENTIAL_MALFORMED), (None, Reason.CREDENTIAL_MISSING)):
        actions = acme.actions(credential, "documents/1")
        resources = acme.resources(credential, "documents:read")
        assert (actions.actions, actions.reason, actions.identity) == ((), reason, None)
        assert (resources.allowed, resources.denied, resources.reason) == ((), (), reason)
        assert actions.http is not None
        assert actions.http.status == 401
