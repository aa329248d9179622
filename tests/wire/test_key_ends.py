"""The life of a key over the wire, on both stores: rotated, ended, used, changed by many at once."""

from __future__ import annotations

import threading
import time

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from doorward.v1 import keys_pb2 as pb
from doorward_server.core.model import KEPT_SECRETS, SECOND
from tests.wire.serving import Held, Server, broken, refused
from tests.wire.tenants import HOUR, Tenant, asked, at_of, hours, listed, stamp, state_of

# --- rotation ---------------------------------------------------------------------------------------------------------


def test_after_a_rotation_the_old_secret_works_until_the_grace_is_over(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    rotated = acme.rotate(held.id, grace=hours(1))
    assert (rotated.key.id, rotated.replayed) == (held.id, False)
    assert [s.superseded for s in rotated.key.secrets] == [False, True]
    assert at_of(rotated.key.secrets[1].expires_at) == acme.server.clock.now + HOUR * SECOND
    assert not rotated.key.secrets[0].HasField("expires_at")
    assert rotated.key.masked == rotated.key.secrets[0].masked == f"•••••{rotated.secret[-4:]}"
    acme.server.clock.advance(HOUR - 1)
    assert asked(acme, held.text) == asked(acme, rotated.secret) == "ALLOWED"
    acme.server.clock.advance(1)
    assert asked(acme, held.text) == "SECRET_SUPERSEDED"
    assert asked(acme, rotated.secret) == "ALLOWED"
    assert asked(acme, broken(held.text, -10)) == "CREDENTIAL_MALFORMED"


def test_without_grace_the_old_secret_ends_at_once(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    acme.rotate(held.id)
    assert asked(acme, held.text) == "SECRET_SUPERSEDED"


def test_no_rotation_makes_a_secret_live_longer(acme: Tenant) -> None:
    first = acme.key(scopes=["read:findings"])
    second = acme.rotate(first.id, grace=hours(1))
    third = acme.rotate(first.id, grace=hours(5))
    assert [at_of(s.expires_at) - acme.server.clock.now for s in third.key.secrets[1:]] == [
        5 * HOUR * SECOND,
        1 * HOUR * SECOND,
    ]
    acme.server.clock.advance(HOUR)
    assert [asked(acme, text) for text in (first.text, second.secret, third.secret)] == [
        "SECRET_SUPERSEDED",
        "ALLOWED",
        "ALLOWED",
    ]


def test_the_grace_ends_with_the_key(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"], expiry=pb.Expiry(duration=hours(1)))
    acme.rotate(held.id, grace=hours(2))
    acme.server.clock.advance(HOUR)
    assert asked(acme, held.text) == "KEY_EXPIRED"


def test_an_overlap_can_be_finished_early(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    rotated = acme.rotate(held.id, grace=hours(1))
    finished = acme.rotate(held.id, finish=True)
    assert (finished.secret, finished.replayed) == ("", False)
    assert asked(acme, held.text) == "SECRET_SUPERSEDED"
    assert asked(acme, rotated.secret) == "ALLOWED"
    before = acme.server.mark(acme.id)
    assert acme.rotate(held.id, finish=True).key.etag == finished.key.etag
    assert acme.server.mark(acme.id) == before


def test_a_replayed_rotation_rotates_once(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    first = acme.rotate(held.id, grace=hours(1), request_id="turn")
    again = acme.rotate(held.id, grace=hours(1), request_id="turn")
    assert (again.replayed, again.secret, len(again.key.secrets)) == (True, "", 2)
    assert asked(acme, first.secret) == "ALLOWED"
    refusal = refused(lambda: acme.rotate(held.id, grace=hours(2), request_id="turn"))
    assert refusal.reason == "REQUEST_ID_REUSED"
    assert len(acme.events("keys:rotate")) == 1


def test_secrets_that_work_at_the_same_time_are_bounded(acme: Tenant) -> None:
    held = acme.key()
    for _ in range(9):
        acme.rotate(held.id, grace=hours(1))
    refusal = refused(lambda: acme.rotate(held.id, grace=hours(1)))
    assert (refusal.code, refusal.reason, refusal.metadata["limit"]) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "10")
    acme.rotate(held.id, finish=True)
    acme.rotate(held.id, grace=hours(1))


# --- the end ----------------------------------------------------------------------------------------------------------


def test_revocation_is_permanent(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    revoked = acme.revoke(held.id, "leaked in a build log").key
    assert (state_of(revoked), revoked.revoke_reason) == ("REVOKED", "leaked in a build log")
    assert at_of(revoked.revoked_at) == acme.server.clock.now
    assert asked(acme, held.text) == "KEY_REVOKED"
    before = acme.server.mark(acme.id)
    for change in (
        lambda: acme.rotate(held.id, grace=hours(1)),
        lambda: acme.rotate(held.id, finish=True),
        lambda: acme.update(held.id, name="x"),
        lambda: acme.update(held.id, enabled=True),
        lambda: acme.update(held.id, "expires_at", expiry=pb.Expiry(duration=hours(1))),
    ):
        refusal = refused(change)
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "KEY_IS_REVOKED")
    assert acme.revoke(held.id, "again").key == revoked
    assert acme.server.mark(acme.id) == before
    (event,) = acme.events("keys:revoke")
    assert event.note == "leaked in a build log"


def test_a_deleted_key_is_gone_but_its_secret_is_remembered(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    acme.root.keys.DeleteKey(pb.DeleteKeyRequest(organization=acme.id, id=held.id))
    assert asked(acme, held.text) == "KEY_REVOKED"
    assert listed(acme) == []
    for call in (
        lambda: acme.get(held.id),
        lambda: acme.revoke(held.id),
        lambda: acme.rotate(held.id),
        lambda: acme.update(held.id, name="x"),
        lambda: acme.root.keys.DeleteKey(pb.DeleteKeyRequest(organization=acme.id, id=held.id)),
    ):
        refusal = refused(call)
        assert (refusal.reason, refusal.metadata) == ("NOT_FOUND", {"type": "key", "id": held.id})
    assert [e.action for e in acme.events(target=held.id)] == ["keys:create", "keys:delete"]


def test_states_hold_in_their_order(acme: Tenant) -> None:
    clock = acme.server.clock
    held = acme.key(
        scopes=["read:findings"],
        not_before=stamp(clock.now + HOUR * SECOND),
        expiry=pb.Expiry(instant=stamp(clock.now + 2 * HOUR * SECOND)),
    )

    def now(state: str, reason: str) -> None:
        assert (state_of(acme.get(held.id)), asked(acme, held.text)) == (state, reason)

    now("NOT_YET_VALID", "KEY_NOT_YET_VALID")
    acme.update(held.id, enabled=False)
    now("DISABLED", "KEY_DISABLED")
    acme.update(held.id, enabled=True)
    clock.advance(HOUR)
    now("ACTIVE", "ALLOWED")
    acme.update(held.id, enabled=False)
    clock.advance(HOUR)
    now("EXPIRED", "KEY_EXPIRED")
    acme.revoke(held.id)
    now("REVOKED", "KEY_REVOKED")


def test_possession_is_proved_before_any_state_is_told(acme: Tenant) -> None:
    from doorward_server.core.keytext import checksum

    held = acme.key(scopes=["read:findings"])
    acme.revoke(held.id)
    body = broken(held.text[:-6])  # the right public id, another secret
    assert asked(acme, body + checksum(body)) == "KEY_UNKNOWN"
    assert asked(acme, held.text) == "KEY_REVOKED"


# --- last use ---------------------------------------------------------------------------------------------------------


def until_used(tenant: Tenant, id: str, at: int) -> pb.Key:
    """Read the key until its use at *at* has been written."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        key = tenant.get(id)
        if key.HasField("last_used_at") and at_of(key.last_used_at) >= at:
            return key
    raise AssertionError("the use was not written")


def test_a_use_is_written_to_key_and_secret(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    rotated = acme.rotate(held.id, grace=hours(1))
    first = acme.server.clock.advance(1)
    assert asked(acme, held.text) == "ALLOWED"
    key = until_used(acme, held.id, first)
    assert [s.HasField("last_used_at") for s in key.secrets] == [False, True]
    assert at_of(key.last_used_at) == at_of(key.secrets[1].last_used_at) == first
    second = acme.server.clock.advance(1)
    assert asked(acme, rotated.secret, action="findings:update") == "SCOPE_INSUFFICIENT"
    key = until_used(acme, held.id, second)
    assert [at_of(s.last_used_at) for s in key.secrets] == [second, first]
    assert key.etag == rotated.key.etag  # being used changes no setting
    assert held.id not in listed(acme, never_used=True)


def test_neither_dry_runs_nor_denials_before_authentication_count_as_use(acme: Tenant) -> None:
    held, fence = acme.key(scopes=["read:findings"]), acme.key(scopes=["read:findings"])
    disabled = acme.key(scopes=["read:findings"])
    acme.update(disabled.id, enabled=False)
    assert asked(acme, held.text, dry_run=True) == "ALLOWED"
    assert asked(acme, broken(held.text)) == "CREDENTIAL_MALFORMED"
    assert asked(acme, disabled.text) == "KEY_DISABLED"
    assert asked(acme, fence.text) == "ALLOWED"
    until_used(acme, fence.id, acme.server.clock.now)
    acme.server.on_loop(acme.server.app.uses.flush)
    assert not acme.get(held.id).HasField("last_used_at")
    assert not acme.get(disabled.id).HasField("last_used_at")


# --- many at once -----------------------------------------------------------------------------------------------------


def test_sixteen_threads_change_one_key_and_no_change_is_lost(server: Server, acme: Tenant) -> None:
    held, start = acme.key(scopes=["read:findings"]), threading.Barrier(16)
    done: list[tuple[str, str]] = []
    failures: list[BaseException] = []

    def work(number: int) -> None:
        api = server.api()
        start.wait()
        for turn in range(6):
            name = f"{number}/{turn}"
            try:
                match number % 4:
                    case 0:
                        api.keys.RotateKey(pb.RotateKeyRequest(organization=acme.id, id=held.id))
                        done.append(("keys:rotate", name))
                    case 1 if number == 13 and turn == 5:
                        api.keys.RevokeKey(pb.RevokeKeyRequest(organization=acme.id, id=held.id, reason=name))
                        done.append(("keys:revoke", name))
                    case _:
                        api.keys.UpdateKey(acme.changed(held.id, metadata={"who": name}))
                        done.append(("keys:update", name))
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                    failures.append(error)
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    events = [e for e in acme.events(target=held.id) if e.action != "keys:create"]
    assert sorted(e.action for e in events) == sorted(action for action, _ in done)
    written = [e.after["metadata"]["who"] for e in events if e.action == "keys:update"]
    assert sorted(written) == sorted(name for action, name in done if action == "keys:update")
    key = acme.get(held.id)
    assert int(key.etag) == 1 + len(done)
    assert len(key.secrets) == 1 + min(KEPT_SECRETS, sum(action == "keys:rotate" for action, _ in done))
    assert ("keys:revoke" in {action for action, _ in done}) == (state_of(key) == "REVOKED")
    report = server.app.store.verify_chain(acme.id)
    assert report.ok
    assert report.length == len(acme.events())


def test_a_revocation_wins_over_whatever_comes_after_it(acme: Tenant) -> None:
    """The window between a change's look at the key and its write is closed by the store's lock, not by luck."""
    held: Held = acme.key(scopes=["read:findings"])
    outcomes: list[str] = []

    def rotate() -> None:
        try:
            outcomes.append(acme.rotate(held.id).secret)
        except grpc.RpcError:
            outcomes.append("")

    threads = [threading.Thread(target=rotate) for _ in range(4)]
    for thread in threads:
        thread.start()
    acme.revoke(held.id)
    for thread in threads:
        thread.join(60)
    for text in (held.text, *filter(None, outcomes)):
        assert asked(acme, text) in ("KEY_REVOKED", "SECRET_SUPERSEDED")
    assert Timestamp() != acme.get(held.id).revoked_at
