"""FactoryThread's auditing, and what is done when a key gets out; docs/systems/factorythread.md says which line."""

from __future__ import annotations

import io

import pytest
import yaml

from doorward import CallerForbidden, KeyState, LeakOutcome, Secret
from doorward.scanning import Scanner
from doorward.shapes import Shapes, shapes_of
from tests.conformance.products import EXAMPLES, Customer, Desk, Product, text_of
from tests.wire.tenants import never_made

FILE = EXAMPLES / "factorythread.yaml"


@pytest.fixture(scope="module")
def product(desk: Desk) -> Product:
    return desk.product(FILE)


@pytest.fixture(scope="module")
def acme(product: Product) -> Customer:
    return product.customer("acme")


def test_auditing_tells_who_did_what_to_a_key(acme: Customer) -> None:
    alice = acme.person("editor")
    made = acme.key("read-only", owner=alice, name="erp-order-sync-production")
    acme.root.update_key(made.key.id, organization=acme.id, description="moved to the new ERP")
    acme.root.revoke_key(made.key.id, organization=acme.id, reason="not needed any more")
    events = list(acme.root.list_events(organization=acme.id, key=made.key.id, oldest_first=True))
    assert [event.action for event in events] == ["keys:create", "keys:update", "keys:revoke"]
    assert {event.at for event in events} == {acme.desk.now}
    assert {event.actor.organization for event in events} == {"operator"}
    assert events[1].after == {"description": "moved to the new ERP"}
    assert events[2].note == "not needed any more"
    *_, report = acme.root.verify_chain(organization=acme.id)
    assert report.intact


def test_what_happened_to_a_deleted_key_is_preserved(acme: Customer) -> None:
    made = acme.key("full-access", name="to be deleted, and remembered")
    acme.root.delete_key(made.key.id, organization=acme.id)
    newest, oldest = acme.root.list_events(organization=acme.id, key=made.key.id)
    assert (newest.action, oldest.action) == ("keys:delete", "keys:create")
    assert oldest.after is not None
    assert oldest.after["name"] == "to be deleted, and remembered"


def test_keys_that_were_committed_to_source_control_are_found(acme: Customer) -> None:
    live, test = acme.key("read-only"), acme.key("read-only", environment="test")
    source = f"# config\nKEY = '{text_of(live)}'\n{never_made('others')}\nTEST={text_of(test)}\n"
    shapes, missed = shapes_of(yaml.safe_load(FILE.read_text("utf-8")))
    found = list(Scanner(Shapes(shapes)).stream(io.BytesIO(source.encode()), "config.py"))
    assert [(it.place, it.line, it.secret) for it in found] == [
        ("config.py", 2, Secret(text_of(live))),
        ("config.py", 4, Secret(text_of(test))),
    ]
    assert missed == []


def test_a_key_that_was_found_is_revoked_immediately(acme: Customer) -> None:
    made = acme.key("full-access")
    scanner = acme.desk.client(
        text_of(acme.root.create_key(keyspace="doorward", organization=acme.id, name="ci", scopes=["scanner"]))
    )
    assert acme.ask(made, "flows:list")
    reported = scanner.report_leak(made.secret or "", keyspace=acme.product.keyspace, found_in="github.com/acme/erp")
    assert (reported.outcome, reported.key_id) == (LeakOutcome.REVOKED, made.key.id)
    assert acme.ask(made, "flows:list").reason == "KEY_REVOKED"
    old = acme.root.get_key(made.key.id, organization=acme.id)
    assert (old.state, old.revoke_reason) == (KeyState.REVOKED, "leaked")
    newest, *_ = acme.root.list_events(organization=acme.id, key=made.key.id)
    assert (newest.action, newest.note) == ("keys:leaked", "github.com/acme/erp")
    with pytest.raises(CallerForbidden):
        scanner.revoke_key(acme.key("full-access").key.id)
