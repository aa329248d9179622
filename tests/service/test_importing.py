"""Keys that other systems handed out: taken in by text or hash, proved by the text that people still hold."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.v1 import directory_pb2, keys_pb2
from doorward.v1.keys_pb2 import IMPORTED_HASH_BCRYPT, IMPORTED_HASH_SHA256
from doorward_server.core.errors import (
    BuiltIn,
    CallerForbidden,
    CallerUnauthenticated,
    InvalidField,
    OrganizationIsDisabled,
)
from doorward_server.core.model import Actor, Event
from doorward_server.service.importing import CHUNK, MAX_ROWS
from tests.fakes import FakeClock
from tests.service.door import CHEAP, Door, keyspace, opened_door, row

LEGACY = (
    "prefix: new",
    "legacy:",
    # Found by its first eight characters; and by the whole text.
    "  - {name: parts, prefix: 'pt_', alphabet: hex, length: 40, entropy_bits: 128, lookup: 8}",
    "  - {name: whole, prefix: 'wh_', alphabet: base62, length: 32, entropy_bits: 190}",
    "  - {name: weak, prefix: 'pin_', alphabet: digits, length: [8, 12], entropy_bits: 26}",
    "  - {name: long, prefix: 'lg_', alphabet: hex, length: [32, 100], entropy_bits: 112, lookup: 4}",
)
PARTS = "pt_" + "0123abcd" + "e" * 32
WHOLE = "wh_" + "Az09" * 8
PIN = "pin_20261121"


@pytest.fixture
def old(door: Door) -> Door:
    door.apply(keyspace("old", *LEGACY))
    return door


def outcomes(answer: keys_pb2.ImportKeysResponse) -> list[str]:
    return [keys_pb2.ImportOutcome.Name(it.outcome).removeprefix("IMPORT_OUTCOME_") for it in answer.results]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def in_base64(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def crypted(text: str, prefix: bytes = b"2b") -> str:
    return bcrypt.hashpw(text.encode(), bcrypt.gensalt(CHEAP, prefix)).decode()


PROOFS: dict[str, tuple[str, dict[str, Any]]] = {
    "text, by part": (PARTS, {"text": PARTS}),
    "text, by whole": (WHOLE, {"text": WHOLE}),
    "weak text": (PIN, {"text": PIN}),
    "sha256 hex": (WHOLE, {"hash": digest(WHOLE), "hash_kind": IMPORTED_HASH_SHA256}),
    "sha256 HEX": (WHOLE, {"hash": digest(WHOLE).upper(), "hash_kind": IMPORTED_HASH_SHA256}),
    "sha256 base64": (WHOLE, {"hash": in_base64(WHOLE), "hash_kind": IMPORTED_HASH_SHA256}),
    "sha256 base64 bare": (WHOLE, {"hash": in_base64(WHOLE).rstrip("="), "hash_kind": IMPORTED_HASH_SHA256}),
    "sha256 with lookup": (PARTS, {"hash": digest(PARTS), "hash_kind": IMPORTED_HASH_SHA256, "lookup": "0123abcd"}),
    "sha256 of weak": (PIN, {"hash": digest(PIN), "hash_kind": IMPORTED_HASH_SHA256}),
    "bcrypt 2b": (PARTS, {"hash": crypted(PARTS), "hash_kind": IMPORTED_HASH_BCRYPT, "lookup": "0123abcd"}),
    "bcrypt 2a": (PARTS, {"hash": crypted(PARTS, b"2a"), "hash_kind": IMPORTED_HASH_BCRYPT, "lookup": "0123abcd"}),
}


@pytest.mark.parametrize("name", PROOFS)
def test_what_another_system_kept_proves_the_text_and_no_other(old: Door, name: str) -> None:
    text, proof = PROOFS[name]
    acme = old.organization()
    answer = old.take_in(acme, "old", row("a-1", **proof))
    assert outcomes(answer) == ["CREATED"], answer
    assert answer.results[0].external_id == "a-1"
    assert old.verdict("old", text) == "ALLOWED"
    for position in range(len(text)):
        changed = text[:position] + ("1" if text[position] != "1" else "2") + text[position + 1 :]
        assert old.verdict("old", changed) in ("KEY_UNKNOWN", "CREDENTIAL_MALFORMED", "CREDENTIAL_MISSING")
    shown = old.run(
        old.keys.GetKey(keys_pb2.GetKeyRequest(organization=acme, id=answer.results[0].key_id), old.caller())
    )
    assert shown.key.external_id == "a-1"
    (event,) = old.events(acme, "keys:import")
    assert event.target == answer.results[0].key_id
    assert event.after["external_id"] == "a-1"


@pytest.mark.parametrize(
    ("text", "kind"),
    [(PARTS, "hmac-sha256"), (WHOLE, "hmac-sha256"), (PIN, "bcrypt-sha256")],
)
def test_a_text_is_kept_by_a_fast_hash_only_if_it_is_sound(old: Door, text: str, kind: str) -> None:
    acme = old.organization()
    id = old.take_in(acme, "old", row(text=text)).results[0].key_id
    assert old.kept("old", acme, id) == kind
    assert old.verdict("old", text) == "ALLOWED"
    old.settle()
    assert old.kept("old", acme, id) == kind


def test_a_keyspace_that_demands_an_adaptive_hash_gets_one_for_imported_texts_too(door: Door) -> None:
    door.apply(keyspace("slow", *LEGACY, "verifier: bcrypt-sha256"))
    acme = door.organization()
    ids = [
        door.take_in(acme, "slow", row(text=WHOLE)).results[0].key_id,
        door.take_in(acme, "slow", row(**PROOFS["bcrypt 2b"][1])).results[0].key_id,
    ]
    assert [door.verdict("slow", text) for text in (WHOLE, PARTS)] == ["ALLOWED", "ALLOWED"]
    door.settle()
    assert [door.kept("slow", acme, id) for id in ids] == ["bcrypt-sha256", "bcrypt"]


def test_texts_of_the_keyspaces_own_format_are_taken_in(old: Door) -> None:
    acme, globex = old.organization(), old.organization("globex")
    old.apply(keyspace("other", "prefix: new"))
    text = old.create(globex, "other", environment="test").secret
    refused, wrong = old.take_in(acme, "old", row(text=text), row(text=text, environment="live")).results
    assert (refused.reason, wrong.reason) == ("INVALID_FIELD", "INVALID_FIELD")
    assert "'test'" in refused.message
    assert outcomes(old.take_in(acme, "old", row(text=text, environment="test"))) == ["CREATED"]
    assert old.verdict("old", text, environment="test") == "ALLOWED"


def test_hashes_of_uuid_keys_need_no_legacy_format(door: Door) -> None:
    door.apply(keyspace("faction", "format: uuid"))
    acme = door.organization()
    text = "8c5f4c2e-6d0b-4f6e-9a86-2f3f6f0a1b2c"
    hashed = row(hash=digest(text), hash_kind=IMPORTED_HASH_SHA256)
    id = door.take_in(acme, "faction", hashed).results[0].key_id
    assert door.verdict("faction", text) == "ALLOWED"
    door.settle()
    assert door.kept("faction", acme, id) == "hmac-sha256"


def test_a_text_of_73_bytes_under_bcrypt_never_proves(old: Door) -> None:
    """Other systems cut at 72 bytes, so any 73rd would do; here none does, and the first 72 are another text."""
    text = "lg_" + "abcd" + "0" * 66
    assert len(text) == 73
    acme = old.organization()
    cut = bcrypt.hashpw(text.encode()[:72], bcrypt.gensalt(CHEAP)).decode()
    proof: dict[str, Any] = {"hash": cut, "hash_kind": IMPORTED_HASH_BCRYPT, "lookup": "abcd"}
    assert outcomes(old.take_in(acme, "old", row(**proof))) == ["CREATED"]
    assert old.verdict("old", text) == "KEY_UNKNOWN"
    assert old.verdict("old", text[:72]) == "ALLOWED"
    other = "lg_" + "dcba" + "1" * 90
    assert outcomes(old.take_in(acme, "old", row(text=other))) == ["CREATED"]
    assert old.verdict("old", other) == "ALLOWED"


BCRYPT = {"hash_kind": IMPORTED_HASH_BCRYPT, "lookup": "0123abcd"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no proof": ({}, "proof"),
    "no external id": ({"external_id": " ", "text": WHOLE}, "external_id"),
    "long external id": ({"external_id": "x" * 201, "text": WHOLE}, "external_id"),
    "no format": ({"text": "sk-unheard-of"}, "text"),
    "no kind": ({"hash": digest(WHOLE)}, "hash_kind"),
    "unheard-of kind": ({"hash": digest(WHOLE), "hash_kind": 9}, "hash_kind"),
    "short sha256": ({"hash": digest(WHOLE)[1:], "hash_kind": IMPORTED_HASH_SHA256}, "hash"),
    "wild base64": ({"hash": "*" * 43, "hash_kind": IMPORTED_HASH_SHA256}, "hash"),
    "sha1": ({"hash": hashlib.sha1(b"x").hexdigest(), "hash_kind": IMPORTED_HASH_SHA256}, "hash"),
    "bcrypt alone": ({"hash": crypted(PARTS), "hash_kind": IMPORTED_HASH_BCRYPT}, "lookup"),
    "long lookup": ({**BCRYPT, "hash": crypted(PARTS), "lookup": "0123abcde"}, "lookup"),
    "foreign lookup": ({**BCRYPT, "hash": crypted(PARTS), "lookup": "0123abcX"}, "lookup"),
    "bcrypt 2y": ({**BCRYPT, "hash": crypted(PARTS).replace("$2b$", "$2y$")}, "hash"),
    "cheap bcrypt": ({**BCRYPT, "hash": crypted(PARTS).replace("$04$", "$03$")}, "hash"),
    "dear bcrypt": ({**BCRYPT, "hash": crypted(PARTS).replace("$04$", "$17$")}, "hash"),
    "cut bcrypt": ({**BCRYPT, "hash": crypted(PARTS)[:-1]}, "hash"),
    "impossible salt": ({**BCRYPT, "hash": "$2b$04$" + "A" * 22 + "O" * 31}, "hash"),
    "long last4": ({"hash": digest(WHOLE), "hash_kind": IMPORTED_HASH_SHA256, "last4": "12345"}, "last4"),
    "made tomorrow": ({"text": WHOLE, "created_at": {"seconds": 1_800_086_400}}, "created_at"),
    "over before it began": (
        {"text": WHOLE, "created_at": {"seconds": 1_700_000_000}, "expires_at": {"seconds": 1_700_000_000}},
        "expires_at",
    ),
    "no name": ({"text": WHOLE, "name": ""}, "name"),
    "unheard-of ceiling": ({"text": WHOLE, "ceiling": 9}, "ceiling"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_says_what_is_wrong_and_spoils_no_other(old: Door, name: str) -> None:
    settings, field = BAD[name]
    acme = old.organization()
    answer = old.take_in(
        acme, "old", row("first", text=PARTS), row(**{"external_id": "bad", **settings}), row("last", text=PIN)
    )
    assert outcomes(answer) == ["CREATED", "REJECTED", "CREATED"], answer
    bad = answer.results[1]
    assert (bad.reason, bad.key_id) == ("INVALID_FIELD", "")
    assert bad.message.startswith(f"{field}: "), bad.message
    assert digest(WHOLE) not in bad.message
    assert len(old.events(acme, "keys:import")) == 2


def test_references_that_do_not_exist_reject_their_row_alone(old: Door) -> None:
    acme = old.organization("acme", "alice", "bob")
    bob = directory_pb2.Principal(organization=acme, id="bob", enabled=False)
    disable = directory_pb2.UpdatePrincipalRequest(principal=bob, update_mask=FieldMask(paths=["enabled"]))
    old.run(old.directory.UpdatePrincipal(disable, old.caller()))
    answer = old.take_in(
        acme,
        "old",
        row(text=WHOLE, owner="nobody"),
        row(text=WHOLE, owner="bob"),
        row(text=WHOLE, scopes=["emperor"]),
        row(text=WHOLE, environment="mars"),
        row(text=WHOLE, owner="alice"),
    )
    assert [it.reason for it in answer.results] == [
        "UNKNOWN_REFERENCE", "PRINCIPAL_IS_DISABLED", "UNKNOWN_REFERENCE", "UNKNOWN_REFERENCE", "",
    ]  # fmt: skip
    assert old.verdict("old", WHOLE) == "ALLOWED"


def test_two_keys_never_share_a_lookup(old: Door) -> None:
    acme, globex = old.organization(), old.organization("globex")
    rows = [row(text=PARTS), row(**PROOFS["bcrypt 2b"][1]), row(text=PARTS[:11] + "f" * 32), row(text=WHOLE)]
    first = old.take_in(acme, "old", *rows)
    assert outcomes(first) == ["CREATED", "REJECTED", "REJECTED", "CREATED"]
    assert "already" in first.results[1].message
    again = old.take_in(globex, "old", row(text=PARTS), row(**PROOFS["sha256 hex"][1]))
    assert outcomes(again) == ["REJECTED", "REJECTED"]
    assert acme not in again.results[0].message


def test_the_same_import_again_changes_nothing_not_even_for_ended_keys(old: Door) -> None:
    acme = old.organization()
    rows = [row("a", text=PARTS), row("b", text=WHOLE), row("c", text=PIN), row("a", text="pin_99999999")]
    first = old.take_in(acme, "old", *rows)
    assert outcomes(first) == ["CREATED", "CREATED", "CREATED", "EXISTS"]
    a, b, c, _ = (it.key_id for it in first.results)
    assert first.results[3].key_id == a
    revoke = keys_pb2.RevokeKeyRequest(organization=acme, id=a, reason="leaked")
    old.run(old.keys.RevokeKey(revoke, old.caller()))
    old.run(old.keys.DeleteKey(keys_pb2.DeleteKeyRequest(organization=acme, id=b), old.caller()))
    again = old.take_in(acme, "old", *rows, row("c", name="", text="nonsense"))
    assert outcomes(again) == ["EXISTS"] * 5
    assert [it.key_id for it in again.results] == [a, b, c, a, c]
    assert [old.verdict("old", text) for text in (PARTS, WHOLE, PIN)] == ["KEY_REVOKED", "KEY_REVOKED", "ALLOWED"]


def test_a_dry_run_says_the_same_and_keeps_nothing(old: Door) -> None:
    acme = old.organization()
    old.take_in(acme, "old", row("there", text=PIN))
    rows = [
        row("there", text=PIN), row("a", text=PARTS), row("a", text=WHOLE), row("b", text=PARTS), row("c"),
        row("d", text=WHOLE, owner="nobody"),
    ]  # fmt: skip
    before = old.app.store.revision()
    dry = old.take_in(acme, "old", *rows, dry_run=True)
    assert old.app.store.revision() == before == dry.revision
    assert outcomes(dry) == ["EXISTS", "CREATED", "EXISTS", "REJECTED", "REJECTED", "REJECTED"]
    assert [bool(it.key_id) for it in dry.results] == [True, False, False, False, False, False]
    assert old.verdict("old", PARTS) == "KEY_UNKNOWN"
    wet = old.take_in(acme, "old", *rows)
    assert outcomes(wet) == outcomes(dry)
    assert [it.message for it in wet.results] == [it.message for it in dry.results]


def test_settings_come_with_the_key(old: Door) -> None:
    acme = old.organization("acme", "alice")
    old.take_in(
        acme,
        "old",
        row(
            "x-1",
            text=WHOLE,
            name="ServiceNow",
            description="tickets",
            owner="alice",
            environment="test",
            type="partner",
            scopes=["writer"],
            bindings=[keys_pb2.KeyBinding(role="reader", resources=["things/1"])],
            allowed_cidrs=["10.0.0.0/8"],
            metadata={"team": "ops"},
            created_at={"seconds": 1_600_000_000},
            expires_at={"seconds": 1_700_000_000},
        ),
    )
    request = keys_pb2.ListKeysRequest(organization=acme)
    (key,) = old.run(old.keys.ListKeys(request, old.caller())).keys
    assert (key.name, key.description, key.owner, key.environment) == ("ServiceNow", "tickets", "alice", "test")
    assert (key.type, list(key.scopes), list(key.allowed_cidrs)) == ("partner", ["writer"], ["10.0.0.0/8"])
    assert (key.created_at.seconds, key.expires_at.seconds) == (1_600_000_000, 1_700_000_000)
    assert key.state == keys_pb2.KEY_STATE_EXPIRED
    assert key.masked.endswith("Az09")
    assert key.secrets[0].created_at == key.created_at
    assert old.verdict("old", WHOLE, environment="test") == "KEY_EXPIRED"


def test_a_short_text_is_not_given_away_by_its_mask(old: Door) -> None:
    acme = old.organization()
    old.apply(keyspace("pins", "prefix: new", "legacy: [{name: pin, alphabet: digits, length: 6, entropy_bits: 19}]"))
    id = old.take_in(acme, "pins", row(text="123456")).results[0].key_id
    key = old.app.store.find_key(acme, id)
    assert key is not None
    assert key.secrets[0].last4 == ""


def test_an_import_needs_its_own_right_and_the_right_to_grant(old: Door) -> None:
    acme, globex = old.organization("acme", "alice"), old.organization("globex")
    admin, backend = old.staff(acme, "admin"), old.staff(acme, "backend")
    rows = [row(text=WHOLE)]
    with pytest.raises(CallerForbidden):
        old.take_in(acme, "old", *rows, by=backend)
    with pytest.raises(CallerForbidden):
        old.take_in(globex, "old", *rows, by=admin)
    assert outcomes(old.take_in("", "old", *rows, by=admin)) == ["CREATED"]
    request = keys_pb2.CreateKeyRequest(
        organization=acme,
        keyspace="doorward",
        name="importer of tests",
        bindings=[keys_pb2.KeyBinding(role="admin", resources=[f"organizations/{acme}/keyspaces/old/keys"])],
    )
    importer = old.run(old.keys.CreateKey(request, old.caller())).secret
    answer = old.take_in(acme, "old", row(text=PARTS), row(text=PIN, scopes=[]), by=old.caller(importer))
    assert [it.reason for it in answer.results] == ["GRANT_FORBIDDEN", ""]


def test_keys_of_doorward_itself_are_not_imported(old: Door) -> None:
    with pytest.raises(BuiltIn):
        old.take_in("", "doorward", row(text=old.root))


def test_the_header_comes_first_and_once(old: Door) -> None:
    header = keys_pb2.ImportKeysRequest(header=keys_pb2.ImportHeader(keyspace="old"))
    one = keys_pb2.ImportKeysRequest(row=row(text=WHOLE))
    for messages in ([], [one], [one, header], [keys_pb2.ImportKeysRequest()], [header, header], [header, one, header]):
        with pytest.raises(InvalidField) as refusal:
            old.send(messages)
        assert refusal.value.metadata["field"] == "header"
    assert old.send([header]).results == []


def test_a_call_has_so_many_rows_and_the_rest_can_follow(old: Door) -> None:
    acme = old.organization()
    many = [row(f"r{i}", hash=digest(f"wh_{i:032}"), hash_kind=IMPORTED_HASH_SHA256) for i in range(2 * CHUNK + 1)]
    assert outcomes(old.take_in(acme, "old", *many)) == ["CREATED"] * len(many)
    assert outcomes(old.take_in(acme, "old", *many)) == ["EXISTS"] * len(many)
    assert old.app.store.count_keys(acme) == len(many)
    assert old.verdict("old", f"wh_{2 * CHUNK:032}") == "ALLOWED"
    with pytest.raises(InvalidField, match=f"{MAX_ROWS:,}"):
        old.take_in(acme, "old", *(row(str(i)) for i in range(MAX_ROWS + 1)), dry_run=True)


def test_the_quota_stops_rows_and_not_the_call(store_url: str, tmp_path: Path, clock: FakeClock) -> None:
    with opened_door(store_url, tmp_path, clock, max_keys=2) as door:
        door.apply(keyspace("old", *LEGACY))
        acme = door.organization()
        rows = [row(text=PARTS), row(text=WHOLE), row(text=PIN)]
        expected = ["", "", "QUOTA_EXCEEDED"]
        assert [it.reason for it in door.take_in(acme, "old", *rows, dry_run=True).results] == expected
        assert [it.reason for it in door.take_in(acme, "old", *rows).results] == expected


def test_two_organizations_that_import_one_text_at_once_get_it_once(old: Door) -> None:
    tenants = [old.organization() for _ in range(4)]
    rows = [row(hash=digest(f"wh_{i:032}"), hash_kind=IMPORTED_HASH_SHA256) for i in range(40)]

    async def stream(organization: str) -> AsyncIterator[keys_pb2.ImportKeysRequest]:
        yield keys_pb2.ImportKeysRequest(header=keys_pb2.ImportHeader(organization=organization, keyspace="old"))
        for it in rows:
            yield keys_pb2.ImportKeysRequest(row=it)

    async def together() -> list[keys_pb2.ImportKeysResponse]:
        callers = [await old.app.authorizer.authenticate([("authorization", f"Bearer {old.root}")], None)] * 4
        calls = zip(tenants, callers, strict=True)
        return await asyncio.gather(*(old.keys.ImportKeys(stream(it), caller) for it, caller in calls))

    answers = old.run(together())
    for of_one_row in zip(*(outcomes(answer) for answer in answers), strict=True):
        assert sorted(of_one_row) == ["CREATED", "REJECTED", "REJECTED", "REJECTED"]
    assert sum(old.app.store.count_keys(it) for it in tenants) == len(rows)
    for it in tenants:
        assert old.app.store.verify_chain(it).ok


def test_an_import_into_a_disabled_organization_fails_as_a_whole(old: Door) -> None:
    acme = old.organization()
    changed = directory_pb2.Organization(id=acme, enabled=False)
    disable = directory_pb2.UpdateOrganizationRequest(organization=changed, update_mask=FieldMask(paths=["enabled"]))
    old.run(old.directory.UpdateOrganization(disable, old.caller()))
    header = keys_pb2.ImportHeader(organization=acme, keyspace="old")
    messages = [keys_pb2.ImportKeysRequest(header=header), keys_pb2.ImportKeysRequest(row=row(text=WHOLE))]
    with pytest.raises(OrganizationIsDisabled):
        old.send(messages)


def test_nothing_that_was_imported_is_in_the_log(old: Door) -> None:
    acme = old.organization()
    old.take_in(acme, "old", row(text=WHOLE), row(text=PARTS), row(text=PIN, name=""))
    kept = repr([it.event for it in old.app.store.list_events(acme, 0, 100)])
    for text in (WHOLE, PARTS, PIN, digest(WHOLE)):
        assert text not in kept


def test_guard_rails_hold_for_imports_alike(old: Door) -> None:
    rails = ("keys:", "  owner: required", "  expiry: {need: required}", "  active_per_owner: {maximum: 2}")
    old.apply(keyspace("strict", *LEGACY, *rails))
    acme = old.organization("acme", "alice", "bob")
    future = Timestamp(seconds=1_900_000_000)
    rows = [
        row(text=PARTS, expires_at=future),
        row(text=PARTS, owner="alice"),
        row(text=PARTS, owner="alice", expires_at=future),
        row(text=WHOLE, owner="alice", expires_at=future),
        row(text=PIN, owner="alice", expires_at=future),
        row(text="pin_11111111", owner="alice", expires_at=Timestamp(seconds=1_700_000_000)),
        row(text=PIN, owner="bob", expires_at=future),
    ]
    expected = ["INVALID_FIELD", "INVALID_FIELD", "", "", "TOO_MANY_ACTIVE_KEYS", "", ""]
    assert [it.reason for it in old.take_in(acme, "strict", *rows, dry_run=True).results] == expected
    assert [it.reason for it in old.take_in(acme, "strict", *rows).results] == expected


def test_an_import_ends_no_key_that_is_there_whatever_age_its_rows_claim(old: Door) -> None:
    rails = ("keys:", "  active_per_owner: {maximum: 1, on_exceed: revoke_oldest}")
    old.apply(keyspace("single", *LEGACY, *rails))
    acme = old.organization("acme", "alice")
    rows = [row(text=text, owner="alice") for text in (PARTS, WHOLE)]
    for dry_run in (True, False):
        taken = old.take_in(acme, "single", *rows, dry_run=dry_run)
        assert outcomes(taken) == ["CREATED", "REJECTED"]
        assert taken.results[1].reason == "TOO_MANY_ACTIVE_KEYS"
    assert [old.verdict("single", text) for text in (PARTS, WHOLE)] == ["ALLOWED", "KEY_UNKNOWN"]


def test_whoever_is_ended_during_an_import_takes_in_nothing_more(old: Door) -> None:
    acme = old.organization("acme")
    made = old.create(acme, "doorward", scopes=["admin"])
    admin = old.caller(made.secret)
    rows = [row(text=f"{PARTS[:-6]}{n:06d}") for n in range(CHUNK)]

    def messages() -> Iterator[keys_pb2.ImportKeysRequest]:
        yield keys_pb2.ImportKeysRequest(header=keys_pb2.ImportHeader(organization=acme, keyspace="old", dry_run=True))
        for each in rows:
            yield keys_pb2.ImportKeysRequest(row=each)
        key = old.app.store.find_key(acme, made.key.id)
        assert key is not None
        event = Event(acme, old.clock(), Actor("operator", "x"), "keys:revoke", "key", key.id)
        old.app.store.update_key(acme, key.id, lambda it: (it.revoke(old.clock(), "leaked"), event))
        yield keys_pb2.ImportKeysRequest(row=row(text=WHOLE))

    with pytest.raises(CallerUnauthenticated, match="KEY_REVOKED"):
        old.send(messages(), admin)


def test_an_external_id_that_breaks_its_rule_spoils_its_own_row_only(old: Door) -> None:
    acme = old.organization("acme")
    rows = [row("good", text=PARTS), row("a\x00b", text=WHOLE), row("x" * 201, text=WHOLE)]
    taken = old.take_in(acme, "old", *rows)
    assert outcomes(taken) == ["CREATED", "REJECTED", "REJECTED"]
    assert [it.reason for it in taken.results[1:]] == ["INVALID_FIELD"] * 2
    assert len(taken.results[2].external_id) == 200


def test_where_only_spans_are_allowed_a_row_keeps_the_one_it_was_made_with(old: Door) -> None:
    old.apply(keyspace("spans", *LEGACY, "keys: {expiry: {allowed: [30d, 90d], custom: false}}"))
    made = Timestamp(seconds=1_799_000_000)
    rows = [
        row(text=PARTS, created_at=made, expires_at=Timestamp(seconds=made.seconds + 90 * 86_400)),
        row(text=WHOLE, created_at=made, expires_at=Timestamp(seconds=made.seconds + 91 * 86_400)),
        row(text=WHOLE, expires_at=Timestamp(seconds=1_900_000_000)),
    ]
    assert outcomes(old.take_in(old.organization(), "spans", *rows)) == ["CREATED", "REJECTED", "REJECTED"]
