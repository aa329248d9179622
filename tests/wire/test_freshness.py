"""What a change leaves behind in another process's cache when it returns: nothing. Over real gRPC, on both stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import authz_pb2, directory_pb2, keys_pb2, keyspaces_pb2
from doorward_server.wire.server import SERVICES
from tests import databases
from tests.service.hosts import by_hand
from tests.wire.replicas import (
    ACKNOWLEDGED,
    EXPIRED,
    NOT_AWAITED,
    NOT_NEEDED,
    Pair,
    asked,
    blocked_tail,
    counted,
    counted_work,
    pair,
    reason,
    settled,
    shop,
    until,
    warm,
)
from tests.wire.serving import Held, Server, refused, unique
from tests.wire.tenants import Tenant, never_made, new_tenant

READS = {
    "Authorize", "BatchAuthorize", "ExplainAuthorization", "Introspect", "Lease", "RevealKey", "TestKeyspace",
    "VerifyChain", "ExportUsage", "WatchAlerts",
}  # fmt: skip
"""And all whose names begin with Get or List."""
UNSEEN = {"AlertService", "CreditService", "WebhookService"}
"""Services whose changes no decision can see: there is nobody to wait for."""


OWN: dict[str, Any] = {"ceiling": keys_pb2.CEILING_LIST, "scopes": ["reader"]}
"""A key that belongs to nobody."""


@pytest.fixture(scope="module", params=databases.BACKENDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two replicas on a store of either kind."""
    folder = tmp_path_factory.mktemp("replicas")
    with databases.fresh(str(request.param), folder) as url, pair(url, folder) as made:
        yield made


@dataclass
class World:
    """Somebody's key, who may read things as a member of a group; both replicas know it by heart."""

    both: Pair
    tenant: Tenant
    keyspace: str
    person: str
    group: str
    membership: dict[str, Any]
    binding: str
    held: Held

    def reason(self, server: Server, **more: Any) -> str:
        return reason(server, self.held.text, self.tenant.id, self.keyspace, **more)

    def keys(self) -> Any:
        return self.tenant.root.keys

    def directory(self) -> Any:
        return self.tenant.root.directory


@pytest.fixture
def world(both: Pair) -> World:
    warm(both.one)
    warm(both.other)
    tenant, keyspace = new_tenant(both.one), unique("shop")
    apply(tenant, shop(keyspace))
    person = tenant.person()
    group = tenant.group(person)
    binding = tenant.bind(keyspace, "reader", group=group)
    held = tenant.key(keyspace, owner=person, ceiling=keys_pb2.CEILING_OWNER)
    membership: dict[str, Any] = {"organization": tenant.id, "group": group, "principal": person}
    made = World(both, tenant, keyspace, person, group, membership, binding, held)
    for server in (both.one, both.other):
        until(partial(_remembers, made, server))
    return made


def apply(tenant: Tenant, source: str) -> Any:
    return tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=source))


def _remembers(made: World, server: Server) -> bool:
    """Ask *server* once more, and tell whether it remembers: what it reads while it has no lease, it does not."""
    assert made.reason(server) == "ALLOWED"
    return remembered(server, made.held)


def remembered(server: Server, held: Held) -> bool:
    """Whether *server* answers about a key from its cache."""
    known = server.app.freshness.cache._known.entries.values()
    subjects = [entry.value.subject for entry in list(known)]
    return any(it is not None and it.key is not None and it.key.id == held.id for it in subjects)


def _key(w: World) -> dict[str, Any]:
    return {"organization": w.tenant.id, "id": w.held.id}


def _rotate_and_finish(w: World) -> Any:
    w.tenant.rotate(w.held.id, grace=Duration(seconds=3600))
    assert w.reason(w.both.other) == "ALLOWED"
    return w.tenant.rotate(w.held.id, finish=True)


def _batch_revoke(w: World) -> Any:
    chosen = keys_pb2.KeyFilter(keyspace=w.keyspace)
    return w.keys().BatchRevokeKeys(
        keys_pb2.BatchRevokeKeysRequest(organization=w.tenant.id, filter=chosen, reason="leaked")
    )


def _bar(w: World) -> Any:
    binding = directory_pb2.Binding(
        organization=w.tenant.id, keyspace=w.keyspace, role="barred", resources=["*"], principal=w.person
    )
    return w.directory().CreateBinding(directory_pb2.CreateBindingRequest(binding=binding))


def _narrow(w: World) -> Any:
    binding = directory_pb2.Binding(organization=w.tenant.id, id=w.binding, resources=["things/1"])
    mask = FieldMask(paths=["resources"])
    return w.directory().UpdateBinding(directory_pb2.UpdateBindingRequest(binding=binding, update_mask=mask))


CHANGES: dict[str, tuple[Callable[[World], Any], str]] = {
    "revoke": (lambda w: w.tenant.revoke(w.held.id), "KEY_REVOKED"),
    "revoke many": (_batch_revoke, "KEY_REVOKED"),
    "delete": (lambda w: w.keys().DeleteKey(keys_pb2.DeleteKeyRequest(**_key(w))), "KEY_REVOKED"),
    "rotate": (lambda w: w.tenant.rotate(w.held.id), "SECRET_SUPERSEDED"),
    "finish a rotation": (_rotate_and_finish, "SECRET_SUPERSEDED"),
    "disable": (lambda w: w.tenant.update(w.held.id, enabled=False), "KEY_DISABLED"),
    "make another that takes its place": (
        lambda w: w.keys().CreateKey(w.tenant.new_key(w.keyspace, owner=w.person, ceiling=keys_pb2.CEILING_OWNER)),
        "KEY_REVOKED",
    ),
    "disable its owner": (lambda w: w.tenant.enable_person(w.person, False), "OWNER_DISABLED"),
    "delete its owner": (
        lambda w: w.directory().DeletePrincipal(
            directory_pb2.DeletePrincipalRequest(organization=w.tenant.id, id=w.person)
        ),
        "KEY_REVOKED",
    ),
    "disable its organization": (lambda w: w.tenant.enable(False), "ORGANIZATION_DISABLED"),
    "delete its organization": (
        lambda w: w.directory().DeleteOrganization(directory_pb2.DeleteOrganizationRequest(id=w.tenant.id)),
        "ORGANIZATION_DISABLED",
    ),
    "take the role away": (
        lambda w: w.directory().DeleteBinding(
            directory_pb2.DeleteBindingRequest(organization=w.tenant.id, id=w.binding)
        ),
        "OWNER_PERMISSION_INSUFFICIENT",
    ),
    "narrow the role": (_narrow, "RESOURCE_NOT_GRANTED"),
    "bar the owner": (_bar, "DENIED_BY_RULE"),
    "take the owner out of the group": (
        lambda w: w.directory().RemoveGroupMember(directory_pb2.RemoveGroupMemberRequest(**w.membership)),
        "OWNER_PERMISSION_INSUFFICIENT",
    ),
    "delete the group": (
        lambda w: w.directory().DeleteGroup(directory_pb2.DeleteGroupRequest(organization=w.tenant.id, id=w.group)),
        "OWNER_PERMISSION_INSUFFICIENT",
    ),
    "change what the role may": (lambda w: apply(w.tenant, shop(w.keyspace, "write")), "OWNER_PERMISSION_INSUFFICIENT"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_on_the_other_replica_when_it_returns(world: World, change: str) -> None:
    make, expected = CHANGES[change]
    answer = make(world)
    assert answer.propagation in (ACKNOWLEDGED, EXPIRED)
    assert world.reason(world.both.other) == expected
    assert world.reason(world.both.one) == expected


def test_a_caller_whose_key_is_revoked_is_refused_on_the_other_replica(world: World) -> None:
    caller = world.tenant.key("doorward", scopes=["backend"])
    request = authz_pb2.IntrospectRequest()
    assert world.both.other.api(caller.text).authz.Introspect(request).identity.key_id == caller.id
    world.tenant.revoke(caller.id)
    refusal = refused(lambda: world.both.other.api(caller.text).authz.Introspect(request))
    assert refusal.metadata == {"decision": "KEY_REVOKED"}


def test_what_is_typed_by_hand_is_seen_too(world: World) -> None:
    by_hand(world.both.one.app.store, "UPDATE key SET enabled = ? WHERE id = ?", False, world.held.id)
    until(lambda: world.reason(world.both.other) == "KEY_DISABLED")


def test_nobody_has_to_wait(world: World) -> None:
    answer = world.keys().RevokeKey(keys_pb2.RevokeKeyRequest(**_key(world), no_wait=True))
    assert answer.propagation == NOT_AWAITED
    until(lambda: world.reason(world.both.other) == "KEY_REVOKED")


def test_who_did_not_wait_can_ask_for_what_it_changed(world: World) -> None:
    with blocked_tail(world.both.other):
        answer = world.keys().RevokeKey(keys_pb2.RevokeKeyRequest(**_key(world), no_wait=True))
        fresh = authz_pb2.Consistency(at_least_as_fresh=answer.revision)
        assert world.reason(world.both.other, consistency=fresh) == "KEY_REVOKED"
        assert world.reason(world.both.other, consistency=authz_pb2.Consistency(full=True)) == "KEY_REVOKED"


def test_a_revision_that_is_not_there_is_an_error(world: World) -> None:
    far = world.both.one.app.store.revision() + 1_000_000
    refusal = refused(lambda: world.reason(world.both.other, consistency=authz_pb2.Consistency(at_least_as_fresh=far)))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "REVISION_NOT_REACHED")
    refusal = refused(lambda: world.reason(world.both.other, consistency=authz_pb2.Consistency(at_least_as_fresh=-1)))
    assert refusal.metadata["field"] == "consistency.at_least_as_fresh"


def test_a_change_that_changes_nothing_waits_all_the_same(world: World) -> None:
    world.keys().RevokeKey(keys_pb2.RevokeKeyRequest(**_key(world), no_wait=True))
    assert world.tenant.revoke(world.held.id).propagation in (ACKNOWLEDGED, EXPIRED)
    assert world.reason(world.both.other) == "KEY_REVOKED"


def test_what_only_adds_waits_for_nobody(world: World) -> None:
    with blocked_tail(world.both.other):
        made = world.keys().CreateKey(world.tenant.new_key(world.keyspace, **OWN))
        assert made.propagation == NOT_NEEDED
        assert world.reason(world.both.other) == "ALLOWED"
        dry = keys_pb2.BatchRevokeKeysRequest(
            organization=world.tenant.id, filter=keys_pb2.KeyFilter(keyspace=world.keyspace), reason="-", dry_run=True
        )
        assert world.keys().BatchRevokeKeys(dry).propagation == NOT_NEEDED


def test_who_signs_in_just_after_being_made_is_known(world: World) -> None:
    who = unique("late")
    request = authz_pb2.AuthorizeRequest(
        principal=authz_pb2.PrincipalReference(organization=world.tenant.id, principal=who),
        keyspace=world.keyspace,
        action="things:read",
        organization=world.tenant.id,
    )
    answer = world.both.other.api().authz.Authorize(request)
    assert answer.reason == authz_pb2.REASON_OWNER_DISABLED
    world.tenant.person(who)
    answer = world.both.other.api().authz.Authorize(request)
    assert answer.reason == authz_pb2.REASON_OWNER_PERMISSION_INSUFFICIENT


def test_a_replica_that_cannot_follow_answers_from_the_store_and_changes_wait_it_out(world: World) -> None:
    other = world.both.other
    with blocked_tail(other):
        answer = world.tenant.revoke(world.held.id)
        assert answer.propagation == EXPIRED
        assert not other.app.freshness.lease.live(other.app.freshness.boot())
        assert world.reason(other) == "KEY_REVOKED"
    warm(other)
    assert world.reason(other) == "KEY_REVOKED"
    other_key = world.tenant.key(world.keyspace, **OWN)
    until(lambda: world.tenant.update(other_key.id, name=unique("name")).propagation == ACKNOWLEDGED)


def test_what_is_known_costs_no_look_at_the_store(world: World) -> None:
    other = world.both.other
    with counted(other.app.store) as count, counted_work(other) as work:
        for _ in range(20):
            assert world.reason(other) == "ALLOWED"
    assert count == []
    assert work == []


def test_a_text_of_nobody_is_looked_up_once(world: World) -> None:
    text = never_made(world.keyspace)
    assert reason(world.both.other, text, world.tenant.id, world.keyspace) == "KEY_UNKNOWN"
    with counted_work(world.both.other) as work:
        assert reason(world.both.other, text, world.tenant.id, world.keyspace) == "KEY_UNKNOWN"
    assert work == []


def test_callers_at_the_same_time_share_a_look(world: World) -> None:
    held = world.tenant.key(world.keyspace, owner=world.tenant.person(), ceiling=keys_pb2.CEILING_OWNER)
    go = threading.Barrier(16)

    def ask() -> str:
        go.wait()
        return reason(world.both.other, held.text, world.tenant.id, world.keyspace)

    with counted_work(world.both.other) as work, ThreadPoolExecutor(16) as threads:
        answers = [it.result() for it in [threads.submit(ask) for _ in range(16)]]
    assert set(answers) == {"OWNER_PERMISSION_INSUFFICIENT"}
    assert 1 <= len(work) < 16


def test_an_answer_says_how_long_and_on_what_it_holds(world: World) -> None:
    settled(world.both.other)
    settled(world.both.one)
    answer = asked(world.both.other, world.held.text, world.tenant.id, world.keyspace)
    assert answer.lease_cacheable_for.seconds == 3600
    assert len(set(answer.depends_on)) >= 4
    again = asked(world.both.one, world.held.text, world.tenant.id, world.keyspace)
    assert set(again.depends_on) == set(answer.depends_on)  # tokens mean the same in every process
    unknown = asked(world.both.other, never_made(world.keyspace), world.tenant.id, world.keyspace)
    assert not unknown.HasField("lease_cacheable_for")
    assert not unknown.depends_on


def test_an_answer_holds_until_the_next_moment_that_changes_it(world: World) -> None:
    world.tenant.update(world.held.id, "expires_at", expiry=keys_pb2.Expiry(duration=Duration(seconds=90)))
    answer = asked(world.both.other, world.held.text, world.tenant.id, world.keyspace)
    assert answer.lease_cacheable_for.seconds == 90


def test_an_answer_holds_no_longer_than_the_right_to_ask(world: World) -> None:
    own = world.tenant.key("doorward", scopes=["backend"], expiry=keys_pb2.Expiry(duration=Duration(seconds=60)))
    request = authz_pb2.AuthorizeRequest(
        key=world.held.text, keyspace=world.keyspace, action="things:read", organization=world.tenant.id
    )
    answer = world.both.other.api(own.text).authz.Authorize(request)
    assert answer.decision == authz_pb2.DECISION_ALLOW
    assert answer.lease_cacheable_for.seconds == 60


def test_an_answer_that_the_address_took_part_in_is_not_for_caches(world: World) -> None:
    world.tenant.update(world.held.id, allowed_cidrs=["10.0.0.0/8"])
    answer = asked(
        world.both.other,
        world.held.text,
        world.tenant.id,
        world.keyspace,
        context=authz_pb2.Context(client_ip="10.1.2.3"),
    )
    assert answer.decision == authz_pb2.DECISION_ALLOW
    assert not answer.HasField("lease_cacheable_for")


def test_every_change_says_how_far_it_has_come_and_need_not_wait() -> None:
    for service in SERVICES:
        for rpc in service.methods:
            if service.name in UNSEEN or rpc.name in READS or rpc.name.startswith(("Get", "List")):
                assert "propagation" not in rpc.output_type.fields_by_name, rpc.name
            else:
                assert {"revision", "propagation"} <= set(rpc.output_type.fields_by_name), rpc.name
                # An import only adds, so there is nothing that its caller could choose.
                assert ("no_wait" in rpc.input_type.fields_by_name) == (rpc.name != "ImportKeys"), rpc.name


def test_an_answer_that_is_newer_than_its_caller_is_kept_by_nobody(world: World) -> None:
    """What the caller may do could have changed in between, and the revision of the answer would hide that."""
    settled(world.both.other)
    with blocked_tail(world.both.other):
        held = world.tenant.key(world.keyspace, **OWN)
        answer = asked(world.both.other, held.text, world.tenant.id, world.keyspace)
        assert answer.decision == authz_pb2.DECISION_ALLOW
        assert not answer.HasField("lease_cacheable_for")
    settled(world.both.other)
    assert asked(world.both.other, held.text, world.tenant.id, world.keyspace).HasField("lease_cacheable_for")
