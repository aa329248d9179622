"""What Faction's users may: every permission and every endpoint of its document, by role.

The sentences are in docs/systems/faction.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from doorward import CallerForbidden, Decision, GrantForbidden, IssuedKey, KeyState, Question, Reason
from tests.conformance.products import EXAMPLES, Customer, Desk, SignedIn

ASSESSOR, MANAGER, ENGAGEMENT, REMEDIATION = ROLES = ("assessor", "manager", "engagement", "remediation")
ENDPOINTS = {
    "GET /api/assessments/queue": ("assessments:queue", "assessments", {ASSESSOR, MANAGER}),
    "POST /api/assessments/addVuln/{aid}": ("assessments:addVuln", "assessments/42", {ASSESSOR, MANAGER}),
    "GET /api/assessments/vuln/{vid}": ("vulnerabilities:get", "vulnerabilities/7", {ASSESSOR, MANAGER, REMEDIATION}),
    "GET /api/vulnerabilities/default": ("templates:list", "templates", {ASSESSOR, MANAGER}),
    "POST /api/vulnerabilities/default": ("templates:create", "templates", {MANAGER}),
    "POST /api/vulnerabilities/category": ("categories:create", "categories", {MANAGER}),
    "POST /api/assessments/create": ("assessments:create", "assessments", {MANAGER, ENGAGEMENT}),
    "GET /api/assessments/{aid}": ("assessments:get", "assessments/42", {ASSESSOR, MANAGER, ENGAGEMENT}),
    "POST /api/assessments/{aid}": ("assessments:update", "assessments/42", {MANAGER, ENGAGEMENT}),
    "GET /api/vulnerabilities/getvuln/{id}": (
        "vulnerabilities:getvuln",
        "vulnerabilities/7",
        {ASSESSOR, MANAGER, REMEDIATION},
    ),
    "POST /api/vulnerabilities/settracking": ("vulnerabilities:settracking", "vulnerabilities/7", {REMEDIATION}),
    "POST /api/vulnerabilities/setstatus": ("vulnerabilities:setstatus", "vulnerabilities/7", {REMEDIATION}),
    "GET /api/vulnerabilities/gettracking/{track}": (
        "vulnerabilities:gettracking",
        "vulnerabilities",
        {MANAGER, REMEDIATION},
    ),
}
PERMISSIONS = {
    "create vulnerabilities": ("vulnerabilities:create", "assessments/42", {ASSESSOR, MANAGER}),
    "modify vulnerabilities": ("vulnerabilities:update", "vulnerabilities/7", {ASSESSOR, MANAGER}),
    "access vulnerability templates": ("templates:get", "templates/3", {ASSESSOR, MANAGER}),
    "modify vulnerability templates": ("templates:update", "templates/3", {MANAGER}),
    "update assessment notes": ("notes:update", "notes/1", {ASSESSOR, MANAGER}),
    "list assessments": ("assessments:list", "assessments", {ASSESSOR, MANAGER, ENGAGEMENT}),
    "view users": ("users:list", "users", {MANAGER}),
    "create users": ("users:create", "users", {MANAGER}),
    "change users": ("users:update", "users/1", {MANAGER}),
    "delete users": ("users:delete", "users/1", {MANAGER}),
    "create API keys": ("keys:create", "keys", {MANAGER}),
    "delete API keys": ("keys:delete", "keys/1", {MANAGER}),
    "access administrative functions": ("administration:access", "administration", {MANAGER}),
    "access assessment reports": ("reports:get", "reports/1", {MANAGER, ENGAGEMENT}),
    "list vulnerabilities": ("vulnerabilities:list", "vulnerabilities", {MANAGER, REMEDIATION}),
    "mark vulnerabilities as fixed": ("vulnerabilities:fix", "vulnerabilities/7", {REMEDIATION}),
}
EVERYTHING = ENDPOINTS | PERMISSIONS
OTHERS = {
    "assessments/42": "assessments/43",
    "vulnerabilities/7": "vulnerabilities/8",
    "notes/1": "notes/2",
    "reports/1": "reports/2",
}
"""What is related to the people here, and another one that nobody is related to."""


@dataclass(frozen=True)
class Team:
    """A customer with a user of each role, each with all relations that Faction knows to what is of assessment 42."""

    acme: Customer
    users: dict[str, str]
    keys: dict[str, IssuedKey]

    def ask(self, role: str, action: str, resource: str) -> Decision:
        return self.acme.ask(self.keys[role], action, resource)


@pytest.fixture(scope="module")
def team(desk: Desk) -> Team:
    acme = desk.product(EXAMPLES / "faction.yaml").customer("acme")
    for child, parent in (("vulnerabilities/7", 42), ("vulnerabilities/8", 43), ("notes/1", 42), ("notes/2", 43)):
        acme.put(child, parent=f"assessments/{parent}")
    acme.put("reports/1", parent="assessments/42")
    acme.put("reports/2", parent="assessments/43")
    users = {role: acme.person(role, id=f"the-{role}") for role in ROLES}
    for role, relation, resource in (
        (ASSESSOR, "assigned", "assessments/42"),
        (ENGAGEMENT, "contact", "assessments/42"),
        (REMEDIATION, "assigned", "vulnerabilities/7"),
    ):
        acme.relate(f"{resource}#{relation}@user:{users[role]}")
    return Team(acme, users, {role: acme.key(owner=id) for role, id in users.items()})


def refused(decision: Decision) -> bool:
    """Whether it is a 401 for want of a right."""
    assert decision.http is not None
    assert (decision.http.status == 401) is not decision.allowed
    return decision.reason in {
        Reason.OWNER_PERMISSION_INSUFFICIENT,
        Reason.RELATION_MISSING,
        Reason.RESOURCE_NOT_GRANTED,
    }


# --- every role, every permission and endpoint ------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_each_role_reaches_its_endpoints_and_no_others(team: Team, role: str, endpoint: str) -> None:
    action, resource, allowed = ENDPOINTS[endpoint]
    decision = team.ask(role, action, resource)
    assert decision.allowed is (role in allowed)
    assert decision.allowed or refused(decision)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("permission", PERMISSIONS)
def test_each_role_has_its_permissions_and_no_others(team: Team, role: str, permission: str) -> None:
    action, resource, allowed = PERMISSIONS[permission]
    decision = team.ask(role, action, resource)
    assert decision.allowed is (role in allowed)
    assert decision.allowed or refused(decision)


@pytest.mark.parametrize("role", ROLES)
def test_only_managers_reach_what_nobody_gave_them(team: Team, role: str) -> None:
    """ "View all assessments (not just assigned)", "all assessment endpoints (unrestricted)"."""
    asked = [
        (action, OTHERS[resource], allowed) for action, resource, allowed in EVERYTHING.values() if resource in OTHERS
    ]
    questions = [Question(action, resource) for action, resource, _ in asked]
    decisions = team.acme.ask_all(team.keys[role], questions)
    for (action, resource, allowed), decision in zip(asked, decisions, strict=True):
        assert decision.allowed is (role == MANAGER and role in allowed), (action, resource)
        assert decision.allowed or refused(decision)


def test_a_user_without_a_role_may_nothing(team: Team) -> None:
    key = team.acme.key(owner=team.acme.person())
    decisions = team.acme.ask_all(key, [Question(action, resource) for action, resource, _ in EVERYTHING.values()])
    assert all(map(refused, decisions))


def test_managers_may_all_that_assessors_may(team: Team) -> None:
    of = {role: {action for action, _, roles in EVERYTHING.values() if role in roles} for role in ROLES}
    assert of[ASSESSOR] <= of[MANAGER]
    assert set(team.acme.actions(team.keys[ASSESSOR], "assessments/42").actions) <= set(
        team.acme.actions(team.keys[MANAGER], "assessments/43").actions
    )


def test_managers_set_neither_statuses_nor_tracking_ids(team: Team) -> None:
    """Those endpoints are about vulnerabilities, not assessments, and no permission of theirs says so."""
    for action in ("vulnerabilities:setstatus", "vulnerabilities:settracking", "vulnerabilities:fix"):
        decision = team.ask(MANAGER, action, "vulnerabilities/7")
        assert decision.reason == "OWNER_PERMISSION_INSUFFICIENT"
        assert decision.missing_permissions == (action,)
    assert team.ask(MANAGER, "vulnerabilities:update", "vulnerabilities/7")


# --- the owner's roles, as they are now -------------------------------------------------------------------------------


def test_a_key_follows_the_roles_of_its_user(team: Team) -> None:
    acme, alice = team.acme, team.acme.person()
    key = acme.key(owner=alice)
    assert refused(acme.ask(key, "categories:create"))
    binding = acme.bind("manager", principal=alice)
    assert acme.ask(key, "categories:create")
    acme.unbind(binding)
    assert refused(acme.ask(key, "categories:create"))
    acme.group(alice, groups=[], roles=["manager"])
    assert acme.ask(key, "categories:create")


def test_the_server_decides_by_the_account_of_the_key(team: Team) -> None:
    """The flow: validate the key, find the account, check its permissions, process or deny."""
    explained = team.acme.explain(team.keys[ASSESSOR], "templates:create")
    taken = [str(step.step) for step in explained.steps]
    assert taken == ["CREDENTIAL", "STATE", "ORGANIZATION", "ENVIRONMENT", "NETWORK", "OWNER"]
    assert explained.decision.reason == explained.steps[-1].reason == "OWNER_PERMISSION_INSUFFICIENT"
    assert team.acme.ask(team.keys[MANAGER], "templates:create").rule is not None


def test_two_roles_add_up(team: Team) -> None:
    acme = team.acme
    both = acme.person("assessor", "remediation")
    key = acme.key(owner=both)
    acme.relate(f"assessments/43#assigned@user:{both}")
    assert acme.ask(key, "vulnerabilities:update", "vulnerabilities/8")
    assert refused(acme.ask(key, "vulnerabilities:setstatus", "vulnerabilities/8"))
    acme.relate(f"vulnerabilities/8#assigned@user:{both}")
    assert acme.ask(key, "vulnerabilities:setstatus", "vulnerabilities/8")


# --- assigned, contact ------------------------------------------------------------------------------------------------


def test_assignments_count_while_they_last(team: Team) -> None:
    acme = team.acme
    alice = acme.person("assessor")
    key = acme.key(owner=alice)
    assigned = f"assessments/43#assigned@user:{alice}"
    assert refused(acme.ask(key, "vulnerabilities:update", "vulnerabilities/8"))
    acme.relate(assigned)
    for action, resource in (
        ("assessments:get", "assessments/43"),
        ("assessments:addVuln", "assessments/43"),
        ("vulnerabilities:update", "vulnerabilities/8"),
        ("vulnerabilities:getvuln", "vulnerabilities/8"),
        ("notes:update", "notes/2"),
    ):
        assert acme.ask(key, action, resource), action
    acme.unrelate(assigned)
    assert refused(acme.ask(key, "vulnerabilities:update", "vulnerabilities/8"))


def test_teams_are_assigned_too(team: Team) -> None:
    acme = team.acme
    alice = acme.person("assessor")
    red = acme.group(alice)
    acme.relate(f"assessments/43#assigned@group:{acme.group(groups=[red])}")
    assert acme.ask(acme.key(owner=alice), "vulnerabilities:get", "vulnerabilities/8")


def test_a_vulnerability_is_added_to_an_assigned_assessment_only(team: Team) -> None:
    """It has no id yet: its assessment is its parent, or what is asked about."""
    for resource, parent, expected in (
        ("vulnerabilities", "assessments/42", True),
        ("vulnerabilities", "assessments/43", False),
        ("vulnerabilities", None, False),
        ("assessments/42", None, True),
        ("assessments/43", None, False),
    ):
        asked = {"parent": parent} if parent else {}
        decision = team.acme.ask(team.keys[ASSESSOR], "vulnerabilities:create", resource, **asked)
        assert decision.allowed is expected, (resource, parent)


def test_a_backend_can_send_what_is_not_stored(team: Team) -> None:
    acme, key = team.acme, team.keys[ASSESSOR]
    assert refused(acme.ask(key, "vulnerabilities:get", "vulnerabilities/99"))
    assert acme.ask(key, "vulnerabilities:get", "vulnerabilities/99", parent="assessments/42")
    assert acme.ask(key, "assessments:get", "assessments/99", relations=["assigned"])
    assert refused(acme.ask(key, "vulnerabilities:get", "vulnerabilities/8", parent="assessments/42"))  # stored: 43


def test_being_assigned_gives_nothing_without_the_role(team: Team) -> None:
    acme = team.acme
    guest, contact = acme.person(), acme.person("engagement")
    acme.relate(f"assessments/42#assigned@user:{guest}", f"assessments/42#assigned@user:{contact}")
    assert refused(acme.ask(acme.key(owner=guest), "assessments:get", "assessments/42"))
    assert refused(acme.ask(acme.key(owner=contact), "assessments:get", "assessments/42"))


@pytest.mark.parametrize(
    ("role", "action", "expected"),
    [
        (ASSESSOR, "assessments:queue", [("assessments/*", "assigned", False)]),
        (ENGAGEMENT, "assessments:list", [("assessments/*", "contact", False)]),
        (REMEDIATION, "vulnerabilities:gettracking", [("vulnerabilities/*", "assigned", False)]),
        (REMEDIATION, "vulnerabilities:list", [("vulnerabilities/*", "assigned", False)]),
    ],
)
def test_lists_show_what_is_related(team: Team, role: str, action: str, expected: list[tuple[str, str, bool]]) -> None:
    found = team.acme.resources(team.keys[role], action, type=action.partition(":")[0])
    shown = [
        (selector.pattern, relation.relation, relation.on_parent)
        for selector in found.allowed
        for relation in selector.relations
    ]
    assert shown == expected
    assert all(it.relations for it in found.allowed)


def test_managers_see_every_assessment_in_lists(team: Team) -> None:
    found = team.acme.resources(team.keys[MANAGER], "assessments:queue", type="assessments")
    assert any(not it.relations and it.pattern in ("*", "assessments/*") for it in found.allowed)


def test_signed_in_users_are_told_the_same(team: Team) -> None:
    for action, resource, allowed in ENDPOINTS.values():
        for role in ROLES:
            decision = team.acme.ask(SignedIn(team.users[role]), action, resource)
            assert decision.allowed is (role in allowed), (role, action)


# --- managers and Doorward itself -------------------------------------------------------------------------------------


def managing(acme: Customer, manager: str) -> None:
    """Give a manager Doorward's own rights over people and keys: of this customer, and of this product alone."""
    here = f"organizations/{acme.id}"
    faction = f"{here}/keyspaces/{acme.product.keyspace}"
    acme.bind(
        "admin",
        *(f"{here}/{part}" for part in ("principals", "principals/*", "bindings", "bindings/*")),
        *(f"{faction}/{part}" for part in ("keys", "keys/*", "roles/*")),
        principal=manager,
        keyspace="doorward",
    )


def test_managers_manage_users_and_keys_of_their_organization(team: Team) -> None:
    acme = team.acme
    manager = acme.person("manager")
    managing(acme, manager)
    client = acme.member(manager)
    new = client.create_principal("newcomer", organization=acme.id, display_name="Newcomer").id
    client.create_binding(organization=acme.id, keyspace="faction", role="remediation", principal=new)
    made = acme.key(owner=new, client=client)
    assert acme.ask(made, "vulnerabilities:list")
    assert made.key.id in {key.id for key in client.list_keys(organization=acme.id, keyspace="faction")}
    assert client.revoke_key(made.key.id, organization=acme.id).state is KeyState.REVOKED
    client.update_principal(new, organization=acme.id, enabled=False)


def test_managers_manage_nothing_else(team: Team) -> None:
    acme = team.acme
    globex = acme.product.customer("globex")
    manager, stranger = acme.person("manager"), globex.person("assessor")
    managing(acme, manager)
    client = acme.member(manager)
    with pytest.raises(CallerForbidden):
        client.create_principal("mole", organization=globex.id)
    with pytest.raises(CallerForbidden):
        client.create_key(keyspace="faction", organization=globex.id, owner=stranger, name="stolen")
    with pytest.raises((CallerForbidden, GrantForbidden)):
        client.create_key(keyspace="doorward", organization=acme.id, name="root", scopes=["root"])
    with pytest.raises(GrantForbidden):
        client.create_binding(organization=acme.id, keyspace="doorward", role="admin", principal=manager)


def test_assessors_manage_only_their_own_keys(team: Team) -> None:
    acme = team.acme
    alice, bob = acme.person("assessor"), acme.person("assessor")
    client = acme.member(alice)
    foreign = acme.key(owner=bob)
    with pytest.raises(CallerForbidden):
        client.revoke_key(foreign.key.id, organization=acme.id)
    with pytest.raises(CallerForbidden):
        client.create_principal("friend", organization=acme.id)
    own = acme.key(owner=alice, client=client)
    client.delete_key(own.key.id, organization=acme.id)
