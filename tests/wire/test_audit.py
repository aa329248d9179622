"""AuditService: what happened is told to those who may know, and whatever was changed in it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.v1 import audit_pb2 as pb
from doorward.v1 import keys_pb2
from doorward_server.core.model import DAY, SECOND
from doorward_server.service import auditing
from doorward_server.store import audit_store
from tests.wire.bad_requests import forge
from tests.wire.serving import Server, refused
from tests.wire.tenants import Tenant, stamp

INTACT, BROKEN, UNFINISHED = pb.CHAIN_STATUS_INTACT, pb.CHAIN_STATUS_BROKEN, pb.CHAIN_STATUS_UNFINISHED


def listed(tenant: Tenant, **fields: Any) -> list[pb.AuditEvent]:
    """All pages."""
    request = pb.ListEventsRequest(organization=tenant.id, **fields)
    events: list[pb.AuditEvent] = []
    while True:
        answer = tenant.root.audit.ListEvents(request)
        events += answer.events
        if not answer.next_page_token:
            return events
        request.page_token = answer.next_page_token


def found(tenant: Tenant, **filter: Any) -> list[str]:
    return [event.action for event in listed(tenant, filter=pb.EventFilter(**filter), oldest_first=True)]


def verified(tenant: Tenant, head: pb.ChainHead | None = None) -> pb.VerifyChainResponse:
    """The verdict."""
    request = pb.VerifyChainRequest(organization=tenant.id, head=head)
    while True:
        answer: pb.VerifyChainResponse = tenant.root.audit.VerifyChain(request)
        if not answer.next_page_token:
            assert answer.status != UNFINISHED
            return answer
        assert answer.status == UNFINISHED
        request.page_token = answer.next_page_token


def head_of(tenant: Tenant) -> pb.ChainHead:
    answer: pb.GetHeadResponse = tenant.root.audit.GetHead(pb.GetHeadRequest(organization=tenant.id))
    return answer.head


def by_hand(server: Server, *statements: str) -> None:
    """Change the database behind the server's back."""
    file = server.app.config.store_url.removeprefix("sqlite:///")
    database = server.app.store._dialect.database
    assert file
    with database.connection_context():
        for statement in statements:
            database.execute_sql(statement)


def test_an_event_tells_who_did_what_to_what_and_when(server: Server, acme: Tenant) -> None:
    portal = acme.key("doorward", scopes=["portal"], name="portal")
    alice = acme.person()
    acme.bind("doorward", "member", principal=alice)
    held = acme.key(owner=alice, name="before")
    acting = server.api(portal.text, acting_for=f"{acme.id}/{alice}")
    acting.keys.UpdateKey(acme.changed(held.id, name="after"))
    (event,) = listed(acme, filter=pb.EventFilter(key=held.id, actions=["keys:update"]))
    assert event.organization == acme.id
    assert event.time == stamp(server.clock())
    assert event.actor == pb.AuditActor(organization=acme.id, key=portal.id, acting_for=f"{acme.id}/{alice}")
    assert (event.action, event.target_type, event.target) == ("keys:update", "key", held.id)
    assert MessageToDict(event.before) == {"name": "before"}
    assert MessageToDict(event.after) == {"name": "after"}
    (made,) = listed(acme, filter=pb.EventFilter(key=held.id, actions=["keys:create"]))
    assert not made.HasField("before")
    told = MessageToDict(made.after)
    assert told["secrets"][0]["created_at"] == Timestamp(seconds=server.clock() // SECOND).ToJsonString()


def test_each_filter_leaves_out_what_it_says(server: Server, acme: Tenant) -> None:
    alice, bob = acme.person(), acme.person()
    held, other = acme.key(owner=alice), acme.key("fegura")
    binding = acme.bind("aiia", "read:findings", principal=bob)
    api = acme.member(alice)
    began = server.clock()
    server.clock.now += 10 * SECOND
    api.keys.UpdateKey(acme.changed(held.id, name="another"))
    acme.revoke(other.id, "old")
    assert found(acme, key=held.id) == ["keys:create", "keys:update"]
    assert found(acme, principal=alice) == ["principals:create"]
    assert found(acme, actor_principal=alice) == found(acme, actor_principal=f"{acme.id}/{alice}") == ["keys:update"]
    assert found(acme, actions=["keys:revoke", "keys:update"]) == ["keys:update", "keys:revoke"]
    assert found(acme, since=stamp(began + 1)) == ["keys:update", "keys:revoke"]
    assert "keys:update" not in found(acme, before=stamp(began + 1))
    assert found(acme, keyspace="fegura") == ["keys:create", "keys:revoke"]
    assert found(acme, keyspace="aiia") == ["keys:create", "bindings:create", "keys:update"]
    acme.unbind(binding)
    assert found(acme, keyspace="aiia")[-1] == "bindings:delete"
    root = listed(acme, filter=pb.EventFilter(key=other.id))[0].actor.key
    assert "keys:revoke" in found(acme, actor_key=root)
    assert "keys:update" not in found(acme, actor_key=root)


def test_pages_are_whole_in_both_orders_and_bound_to_their_filter(server: Server, acme: Tenant) -> None:
    for _ in range(7):
        acme.person()
    newest = [event.sequence for event in listed(acme, page_size=3)]
    assert newest == list(range(newest[0], 0, -1))
    assert [event.sequence for event in listed(acme, page_size=3, oldest_first=True)] == newest[::-1]
    first = acme.root.audit.ListEvents(pb.ListEventsRequest(organization=acme.id, page_size=3))
    token = first.next_page_token
    changes: list[dict[str, Any]] = [
        {"oldest_first": True},
        {"filter": pb.EventFilter(key="key_1")},
        {"organization": "operator"},
    ]
    for change in changes:
        request = pb.ListEventsRequest(**{"organization": acme.id, "page_token": token, **change})
        assert refused(lambda request=request: acme.root.audit.ListEvents(request)).reason == "PAGE_TOKEN_INVALID"  # type: ignore[misc]  # bound per turn


def test_a_forged_token_is_refused_or_finds_nothing(server: Server, acme: Tenant) -> None:
    acme.person()
    first = pb.ListEventsRequest(organization=acme.id, page_size=1, oldest_first=True)
    token = acme.root.audit.ListEvents(first).next_page_token
    for position in (2**63 - 1, 2**62):
        first.page_token = forge(token, [position])
        assert refused(lambda: acme.root.audit.ListEvents(first)).reason == "PAGE_TOKEN_INVALID"
    first.page_token = forge(token, [2**61])
    assert acme.root.audit.ListEvents(first) == pb.ListEventsResponse()


def test_a_filter_that_finds_little_is_looked_for_in_bounded_steps(
    server: Server, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = acme.person("first")
    for _ in range(12):
        acme.person()
    monkeypatch.setattr(audit_store, "LOOKED_AT", 2)
    monkeypatch.setattr(auditing, "LOOKS", 2)
    request = pb.ListEventsRequest(organization=acme.id, filter=pb.EventFilter(actions=["organizations:create"]))
    answer = acme.root.audit.ListEvents(request)
    assert (list(answer.events), bool(answer.next_page_token)) == ([], True)
    assert found(acme, actions=["organizations:create"]) == ["organizations:create"]
    assert found(acme, principal=first) == ["principals:create"]
    assert len(listed(acme)) == 14


def test_a_large_event_ends_its_page(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "PAGE_BYTES", 10)
    operator = Tenant(server, "operator")
    answer = operator.root.audit.ListEvents(pb.ListEventsRequest())
    assert len(answer.events) == 1
    assert answer.next_page_token


def test_no_event_holds_a_secret(server: Server, acme: Tenant) -> None:
    held = acme.key()
    rotated = acme.rotate(held.id)
    imported = f"legacy{'0' * 34}"
    row = keys_pb2.ImportRow(external_id="x1", text=imported, name="old")
    server_rows = [
        keys_pb2.ImportKeysRequest(header=keys_pb2.ImportHeader(organization=acme.id, keyspace="invicti")),
        keys_pb2.ImportKeysRequest(row=row),
    ]
    acme.root.keys.ImportKeys(iter(server_rows))
    acme.revoke(held.id)
    everything = b"".join(event.SerializeToString() for event in listed(acme))
    for text in (held.text, rotated.secret, imported):
        assert text.encode() not in everything
        assert text[-30:].encode() not in everything


def test_a_chain_is_verified_in_steps_and_a_kept_head_is_found_in_it(
    server: Server, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        acme.person()
    head = head_of(acme)
    for _ in range(6):
        acme.person()
    monkeypatch.setattr(audit_store, "PAGE", 2)
    monkeypatch.setattr(auditing, "PAGES", 2)
    answer = verified(acme, head)
    assert (answer.status, answer.length, answer.verified_to, answer.first) == (INTACT, 12, 12, 1)
    assert answer.head_status == pb.HEAD_STATUS_IN_CHAIN
    assert head.sequence == 6
    assert head.time == stamp(server.clock())
    assert verified(acme).head_status == pb.HEAD_STATUS_UNSPECIFIED


def test_an_empty_chain_has_a_head_and_an_unknown_organization_none(server: Server) -> None:
    nobody = Tenant(server, "nobody")
    for call, request in (
        (nobody.root.audit.GetHead, pb.GetHeadRequest(organization="nobody")),
        (nobody.root.audit.VerifyChain, pb.VerifyChainRequest(organization="nobody")),
        (nobody.root.audit.ListEvents, pb.ListEventsRequest(organization="nobody")),
    ):
        assert refused(lambda call=call, request=request: call(request)).reason == "NOT_FOUND"  # type: ignore[misc]  # bound per turn


TAMPERED = {
    "changed": (["UPDATE event SET note = 'x' WHERE {here} = 4"], 4),
    "removed": (["DELETE FROM event WHERE {here} = 4"], 4),
    "reordered": (
        [
            "UPDATE event SET sequence = 99 WHERE {here} = 4",
            "UPDATE event SET sequence = 4 WHERE {here} = 5",
            "UPDATE event SET sequence = 5 WHERE {here} = 99",
        ],
        4,
    ),
    "inserted": (
        [
            "INSERT INTO event SELECT organization, 9, at, actor_organization, actor_key, actor_principal, acting_for, "
            "action, target_type, target, before, after, note, pepper, hash FROM event WHERE {here} = 8"
        ],
        9,
    ),
    "put before its beginning": (
        [
            "INSERT INTO event SELECT organization, 0, at, actor_organization, actor_key, actor_principal, acting_for, "
            "action, target_type, target, before, after, note, pepper, hash FROM event WHERE {here} = 8"
        ],
        0,
    ),
    "sealed under a pepper that there is not": (["UPDATE event SET pepper = 77 WHERE {here} = 4"], 4),
    "cut back": (["DELETE FROM event WHERE {here} > 6"], 7),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_verify_chain_finds_where_a_chain_was_tampered_with(server: Server, acme: Tenant, how: str) -> None:
    for _ in range(7):
        acme.person()
    statements, broken_at = TAMPERED[how]
    by_hand(server, *(it.replace("{here}", f"organization = '{acme.id}' AND sequence") for it in statements))
    answer = verified(acme)
    assert (answer.status, answer.broken_at) == (BROKEN, broken_at)


CUT_BACK = [
    "DELETE FROM event WHERE {here} > 6",
    "UPDATE tally SET events = 6, head = (SELECT hash FROM event WHERE {here} = 6) WHERE organization = '{acme}'",
]


def cut_back(server: Server, tenant: Tenant) -> None:
    here = f"organization = '{tenant.id}' AND sequence"
    by_hand(server, *(it.replace("{here}", here).replace("{acme}", tenant.id) for it in CUT_BACK))


def test_a_chain_that_was_cut_back_whole_shows_only_against_a_kept_head(server: Server, acme: Tenant) -> None:
    for _ in range(4):
        acme.person()
    early = head_of(acme)
    for _ in range(3):
        acme.person()
    late = head_of(acme)
    cut_back(server, acme)
    assert verified(acme).status == INTACT, "that is why heads are kept"
    assert verified(acme, early).head_status == pb.HEAD_STATUS_IN_CHAIN
    assert verified(acme, late).head_status == pb.HEAD_STATUS_NOT_IN_CHAIN
    for _ in range(5):
        acme.person()  # whoever cut it back goes on writing
    assert verified(acme, late).head_status == pb.HEAD_STATUS_NOT_IN_CHAIN


def test_a_head_that_was_changed_or_is_anothers_is_refused(server: Server, acme: Tenant, globex: Tenant) -> None:
    acme.person()
    head = head_of(acme)
    whole: dict[str, Any] = {
        "organization": acme.id,
        "sequence": 2,
        "hash": head.hash,
        "time": head.time,
        "pepper": head.pepper,
    }
    assert verified(acme, pb.ChainHead(**whole, seal=head.seal)).head_status == pb.HEAD_STATUS_IN_CHAIN
    changes: list[dict[str, Any]] = [{"sequence": 1}, {"hash": bytes(32)}, {"time": stamp(5)}, {"pepper": 9}, {}]
    for change in changes:
        other = pb.ChainHead(**{**whole, **change}, seal=head.seal if change else b"")
        refusal = refused(lambda other=other: verified(acme, other))  # type: ignore[misc]  # bound per turn
        assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "head.seal")
    refusal = refused(lambda: verified(globex, head))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "head.organization")


def test_no_head_is_given_of_a_chain_whose_end_does_not_hold(server: Server, acme: Tenant) -> None:
    acme.person()
    by_hand(server, f"UPDATE event SET note = 'x' WHERE organization = '{acme.id}' AND sequence = 2")
    refusal = refused(lambda: head_of(acme))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "CHAIN_IS_BROKEN")
    assert refusal.metadata == {"organization": acme.id, "sequence": "2"}


# --- retention --------------------------------------------------------------------------------------------------------


@pytest.fixture
def months(server: Server, acme: Tenant) -> Iterator[Tenant]:
    """An organization with events of three days, a month apart."""
    began = server.clock.now
    for _ in range(3):
        for _ in range(3):
            acme.person()
        server.clock.now += 30 * DAY
    yield acme
    server.clock.now = began


def swept(server: Server, days: int) -> int:
    return auditing.AuditRetention(server.app.store, days).sweep(server.clock.now)


def test_what_is_too_old_is_pruned_and_the_rest_verifies(server: Server, months: Tenant) -> None:
    head = head_of(months)
    early = listed(months, oldest_first=True)[1]
    assert swept(server, 0) == 0, "kept for ever"
    assert swept(server, 80) >= 4
    left = listed(months, oldest_first=True)
    assert left[0].sequence == 5
    pruned = left[-1]
    assert (pruned.action, pruned.actor.key, pruned.target_type) == ("events:prune", "retention", "events")
    assert MessageToDict(pruned.before)["last"] == 4
    answer = verified(months, head)
    assert (answer.status, answer.first, answer.length) == (INTACT, 5, 11)
    assert answer.head_status == pb.HEAD_STATUS_IN_CHAIN
    assert swept(server, 80) == 0, "once"
    assert len(listed(months)) == len(left)
    assert early.sequence == 2
    assert swept(server, 20) == 6
    assert verified(months, head).first == 11
    assert verified(months, head).head_status == pb.HEAD_STATUS_IN_CHAIN, "the checkpoint is where it was"
    server.clock.now += 60 * DAY
    assert swept(server, 20) > 0
    assert verified(months, head).status == INTACT
    assert verified(months, head).head_status == pb.HEAD_STATUS_PRUNED


FORGED = {
    "moved": ["UPDATE checkpoint SET sequence = 5 WHERE organization = '{acme}'", "DELETE FROM event WHERE {here} = 5"],
    "with another hash": [
        "UPDATE checkpoint SET hash = (SELECT hash FROM event WHERE {here} = 5) WHERE organization = '{acme}'"
    ],
    "with a later time": ["UPDATE checkpoint SET at = at + 1 WHERE organization = '{acme}'"],
    "under another pepper": ["UPDATE checkpoint SET pepper = 77 WHERE organization = '{acme}'"],
    "taken away": ["DELETE FROM checkpoint WHERE organization = '{acme}'"],
    "with an event before it": [
        "INSERT INTO event SELECT organization, 3, at, actor_organization, actor_key, actor_principal, acting_for, "
        "action, target_type, target, before, after, note, pepper, hash FROM event WHERE {here} = 5"
    ],
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_checkpoint_is_found(server: Server, months: Tenant, how: str) -> None:
    swept(server, 80)
    assert verified(months).status == INTACT
    here = f"organization = '{months.id}' AND sequence"
    by_hand(server, *(it.replace("{here}", here).replace("{acme}", months.id) for it in FORGED[how]))
    answer = verified(months)
    assert answer.status == BROKEN
    assert 0 < answer.broken_at <= 5
    if how != "taken away":  # the end of the chain is all that a head tells
        assert refused(lambda: head_of(months)).reason == "CHAIN_IS_BROKEN"


def test_pruning_does_not_destroy_the_evidence_of_a_broken_chain(server: Server, months: Tenant) -> None:
    by_hand(server, f"UPDATE event SET note = 'x' WHERE organization = '{months.id}' AND sequence = 3")
    before = len(listed(months))
    swept(server, 20)
    assert len(listed(months)) == before
    told = [json.loads(line) for line in server.log.getvalue().splitlines() if "not pruned" in line]
    assert months.id in [line["organization"] for line in told]
    answer = verified(months)
    assert (answer.status, answer.broken_at) == (BROKEN, 3)
