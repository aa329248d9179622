"""ListAlerts, AcknowledgeAlert and WatchAlerts, as callers see them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from doorward.v1 import alerts_pb2 as pb
from tests.wire.replicas import until
from tests.wire.serving import Api, refusal_of, refused
from tests.wire.tenants import HOUR, Tenant, ids, stamp

UNHEARD_OF: Any = 99


class Watch:
    """A stream of alerts that a thread reads."""

    def __init__(self, api: Api, **request: Any) -> None:
        self.came: list[pb.WatchAlertsResponse] = []
        self.failure: grpc.RpcError | None = None
        self._answers = api.alerts.WatchAlerts(pb.WatchAlertsRequest(**request), timeout=600)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for answer in self._answers:
                self.came.append(answer)
        except grpc.RpcError as failure:
            self.failure = failure

    @property
    def alerts(self) -> list[str]:
        return [it.alert.id for it in self.came if it.HasField("alert")]

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._answers.cancel()
        self._thread.join(60)


@contextmanager
def watching(api: Api, **request: Any) -> Iterator[Watch]:
    watch = Watch(api, **request)
    try:
        until(lambda: bool(watch.came) or watch.failure is not None)
        yield watch
    finally:
        watch.stop()


def test_alerts_are_paged_the_latest_first(acme: Tenant) -> None:
    made = [acme.alert() for _ in range(5)]
    first = acme.root.alerts.ListAlerts(pb.ListAlertsRequest(organization=acme.id, page_size=3))
    second = acme.root.alerts.ListAlerts(
        pb.ListAlertsRequest(organization=acme.id, page_size=3, page_token=first.next_page_token)
    )
    assert ids([*first.alerts, *second.alerts]) == made[::-1]
    assert not second.next_page_token


def test_filters_narrow_the_list(acme: Tenant) -> None:
    now = acme.server.clock.now
    early = acme.alert(at=now - 2 * HOUR * 1_000_000)
    acme.alert(key="key_2")
    request = pb.ListAlertsRequest(organization=acme.id, until=stamp(now - HOUR * 1_000_000), kind=pb.ALERT_KIND_LEAKED)
    assert ids(acme.root.alerts.ListAlerts(request).alerts) == [early]
    none = pb.ListAlertsRequest(organization=acme.id, kind=pb.ALERT_KIND_UNUSED)
    assert ids(acme.root.alerts.ListAlerts(none).alerts) == []


def test_numbers_that_say_nothing_are_absent(acme: Tenant) -> None:
    acme.alert(threshold=5, observed=0)
    (told,) = acme.root.alerts.ListAlerts(pb.ListAlertsRequest(organization=acme.id)).alerts
    assert (told.HasField("threshold"), told.HasField("expected"), told.HasField("observed")) == (True, False, True)
    assert not told.HasField("acknowledged_at")


def test_an_acknowledgement_says_who_and_when_and_is_audited(acme: Tenant) -> None:
    alice = acme.member(acme.person("alice"), "admin")
    id = acme.alert()
    answer = alice.alerts.AcknowledgeAlert(pb.AcknowledgeAlertRequest(id=id, note="It was me."))
    assert (answer.alert.acknowledged_by, answer.alert.note) == (f"{acme.id}/alice", "It was me.")
    assert answer.alert.acknowledged_at == stamp(acme.server.clock.now)
    again = acme.root.alerts.AcknowledgeAlert(pb.AcknowledgeAlertRequest(organization=acme.id, id=id))
    assert again.alert.acknowledged_by == f"{acme.id}/alice"
    (event,) = acme.events("alerts:acknowledge", id)
    assert (event.actor.principal, event.note) == ("alice", "It was me.")
    left = pb.ListAlertsRequest(organization=acme.id, unacknowledged=True)
    assert not acme.root.alerts.ListAlerts(left).alerts


def test_an_alert_of_another_organization_is_not_there(acme: Tenant, globex: Tenant) -> None:
    id = acme.alert()
    refusal = refused(lambda: globex.caller("admin").alerts.AcknowledgeAlert(pb.AcknowledgeAlertRequest(id=id)))
    assert refusal.reason == "NOT_FOUND"
    assert not globex.caller("admin").alerts.ListAlerts(pb.ListAlertsRequest()).alerts


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListAlertsRequest(kind=UNHEARD_OF), "kind"),
        (pb.ListAlertsRequest(keyspace="NO"), "keyspace"),
        (pb.ListAlertsRequest(key="a b"), "key"),
        (pb.ListAlertsRequest(page_size=-1), "page_size"),
        (pb.AcknowledgeAlertRequest(), "id"),
        (pb.AcknowledgeAlertRequest(id="alert_1", note="x" * 501), "note"),
        (pb.WatchAlertsRequest(after=-1), "after"),
    ],
)
def test_a_bad_field_is_named(acme: Tenant, request_: Any, field: str) -> None:
    api = acme.caller("admin").alerts
    name = type(request_).__name__.removesuffix("Request")
    call = getattr(api, name)
    refusal = refused(lambda: next(call(request_)) if name == "WatchAlerts" else call(request_))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", field)


def test_whoever_watches_gets_what_comes_from_then_on_in_order(acme: Tenant) -> None:
    acme.alert()
    with watching(acme.caller("viewer")) as watch:
        made = [acme.alert() for _ in range(3)]
        until(lambda: len(watch.alerts) == 3)
        assert watch.alerts == made
        assert [it.sequence for it in watch.came] == [1, 2, 3, 4]


def test_nothing_is_lost_over_a_broken_connection(acme: Tenant) -> None:
    made = [acme.alert() for _ in range(2)]
    with watching(acme.caller("viewer"), after=0) as watch:
        until(lambda: len(watch.alerts) == 2)
        reached = watch.came[-1].sequence
    made += [acme.alert() for _ in range(3)]
    with watching(acme.caller("viewer"), after=reached) as again:
        made.append(acme.alert())
        until(lambda: len(again.alerts) == 4)
        assert watch.alerts + again.alerts == made


def test_a_watch_ends_with_the_right_to_it(acme: Tenant) -> None:
    held = acme.key("doorward", scopes=["viewer"])
    with watching(acme.server.api(held.text)) as watch:
        acme.revoke(held.id)
        acme.alert()
        until(lambda: watch.over)
        assert watch.failure is not None
        assert refusal_of(watch.failure).reason == "CALLER_UNAUTHENTICATED"
        assert watch.alerts == []


def test_only_ones_own_organization_is_watched(acme: Tenant, globex: Tenant) -> None:
    with watching(globex.caller("viewer"), after=0) as watch:
        acme.alert()
        mine = globex.alert()
        until(lambda: bool(watch.alerts))
        assert watch.alerts == [mine]
