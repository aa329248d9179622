"""Usage as callers see it: what counts, who may see it, and in which shape it comes. Over the wire, on both stores."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from doorward.v1 import authz_pb2, directory_pb2, keys_pb2, keyspaces_pb2
from doorward.v1 import usage_pb2 as pb
from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.model import DAY
from doorward_server.core.sections import Sections
from doorward_server.core.usage import HOUR, RESOURCES, Cell, Cells, hour_of
from doorward_server.service import authorizing
from doorward_server.service.decision_log import Recorder
from tests.store.values import event
from tests.wire.replicas import settled, until
from tests.wire.requests import at_desk
from tests.wire.serving import Server, broken, refused
from tests.wire.tenants import Tenant, asked, at_of, never_made, question, reason_of, stamp

DIMENSIONS = {
    name: pb.UsageDimension.Value(f"USAGE_DIMENSION_{name}")
    for name in ("HOUR", "DAY", "KEY", "ACTION", "RESOURCE", "REASON", "ADDRESS", "UNIDENTIFIED")
}


def flush(server: Server) -> None:
    """Do now what is done each second."""
    server.on_loop(server.app.counting.flush)


def usage(tenant: Tenant, *by: str, **fields: Any) -> pb.GetUsageResponse:
    """What the root is told, once all is flushed."""
    flush(tenant.server)
    more = {name: fields.pop(name) for name in ("time_zone", "limit") if name in fields}
    scope = pb.UsageScope(organization=tenant.id, **fields)
    request = pb.GetUsageRequest(scope=scope, group_by=[DIMENSIONS[it] for it in by], **more)
    return tenant.root.usage.GetUsage(request)


def total(it: Any) -> tuple[int, int]:
    return it.total.allowed, it.total.denied


def values(answer: pb.GetUsageResponse, by: str) -> dict[str, tuple[int, int]]:
    """The sums of one breakdown."""
    (found,) = (it for it in answer.breakdowns if it.dimension == DIMENSIONS[by])
    return {it.value: (it.count.allowed, it.count.denied) for it in found.values}


def test_every_decision_counts_with_all_that_it_was_about(acme: Tenant) -> None:
    alice = acme.person()
    acme.bind("aiia", "read:findings", principal=alice)
    held = acme.key(scopes=["read:findings"], owner=alice)
    for address in ("192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2"):
        context = authz_pb2.Context(client_ip=address)
        assert asked(acme, held.text, about="findings/42", context=context) == "ALLOWED"
    assert asked(acme, held.text, action="findings:update", about="findings/42") != "ALLOWED"
    item = authz_pb2.BatchAuthorizeItem(action="findings:read")
    acme.root.authz.BatchAuthorize(
        authz_pb2.BatchAuthorizeRequest(key=held.text, keyspace="aiia", organization=acme.id, items=[item] * 3)
    )
    acme.root.authz.Introspect(authz_pb2.IntrospectRequest(key=held.text, keyspace="aiia"))
    answer = usage(acme, "ACTION", "RESOURCE", "REASON", "ADDRESS", "KEY", key_id=held.id)
    assert total(answer) == (8, 1)
    assert (answer.success_rate, answer.failure_rate) == (8 / 9, 1 / 9)
    assert values(answer, "ACTION") == {"findings:read": (7, 0), "findings:update": (0, 1), "introspect": (1, 0)}
    assert values(answer, "RESOURCE") == {"findings/42": (4, 0), "findings": (3, 0), "": (1, 0), "findings/*": (0, 1)}
    assert values(answer, "ADDRESS") == {"192.0.2.1": (2, 0), "2001:db8::/64": (2, 0), "": (4, 1)}
    assert values(answer, "KEY") == {held.id: (8, 1)}
    assert sum(denied for _, denied in values(answer, "REASON").values()) == 1
    for scope in ({}, {"owner": alice}, {"keyspace": "aiia"}, {"keyspace": "aiia", "owner": alice}):
        assert total(usage(acme, **scope)) == (8, 1), scope
    assert total(usage(acme, keyspace="faction")) == (0, 0)
    assert not usage(acme, keyspace="faction").HasField("success_rate")


def test_dry_runs_and_explanations_do_not_count_and_have_no_id(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    request = question(held.text, "findings:read", keyspace="aiia", organization=acme.id)
    first, second = (acme.root.authz.Authorize(request).decision_id for _ in range(2))
    assert first != second
    assert "" not in (first, second)
    acme.root.authz.ExplainAuthorization(authz_pb2.ExplainAuthorizationRequest(question=request))
    request.dry_run = True
    assert acme.root.authz.Authorize(request).decision_id == ""
    assert total(usage(acme)) == (2, 0)


def test_what_is_nobodys_counts_by_prefix_address_and_service(acme: Tenant) -> None:
    service = acme.key("doorward", scopes=["backend"])
    api = acme.server.api(service.text)
    live = acme.key(scopes=["read:findings"]).text
    prefix = live[: live.index("_live_") + 5]
    context = authz_pb2.Context(client_ip="198.51.100.7")

    def ask(text: str) -> str:
        request = question(text, "findings:read", keyspace="aiia", organization=acme.id, context=context)
        return reason_of(api.authz.Authorize(request))

    assert ask(broken(live)) == "CREDENTIAL_MALFORMED"
    assert ask(never_made(prefix.removesuffix("_live"))) == "KEY_UNKNOWN"
    assert ask(never_made(prefix.removesuffix("_live"))) == "KEY_UNKNOWN"
    assert ask("somebody_else_secret") == "CREDENTIAL_MISSING"
    answer = usage(acme, "UNIDENTIFIED", "ADDRESS", keyspace="aiia")
    assert total(answer) == (0, 4)
    told = {
        (it.prefix, it.address, it.caller, authz_pb2.Reason.Name(it.reason).removeprefix("REASON_")): it.count
        for it in answer.unidentified
    }
    address = "198.51.100.7"
    assert told == {
        (prefix, address, service.id, "KEY_UNKNOWN"): 2,
        (prefix, address, service.id, "CREDENTIAL_MALFORMED"): 1,
        ("", address, service.id, "CREDENTIAL_MISSING"): 1,
    }
    assert values(answer, "ADDRESS") == {address: (0, 4)}


def test_a_key_of_doorward_itself_that_is_kept_out_counts(acme: Tenant) -> None:
    held = acme.key("doorward", scopes=["backend"])
    acme.revoke(held.id)
    refusal = refused(lambda: acme.server.api(held.text).authz.Introspect(authz_pb2.IntrospectRequest()))
    assert refusal.reason == "CALLER_UNAUTHENTICATED"
    answer = usage(acme, "ACTION", "REASON", key_id=held.id)
    assert values(answer, "ACTION") == {"authenticate": (0, 1)}
    assert values(answer, "REASON") == {"KEY_REVOKED": (0, 1)}


def test_of_many_resources_of_a_key_some_are_told_apart_and_all_count(acme: Tenant) -> None:
    held = acme.key(scopes=["read:findings"])
    items = [
        authz_pb2.BatchAuthorizeItem(action="findings:read", resource=authz_pb2.Resource(type="findings", id=f"f{i}"))
        for i in range(100)
    ]
    batch = authz_pb2.BatchAuthorizeRequest(key=held.text, keyspace="aiia", organization=acme.id, items=items)
    acme.root.authz.BatchAuthorize(batch)
    for i, item in enumerate(items):
        item.resource.id = f"g{i}"
    batch = authz_pb2.BatchAuthorizeRequest(key=held.text, keyspace="aiia", organization=acme.id, items=items)
    acme.root.authz.BatchAuthorize(batch)
    answer = usage(acme, "RESOURCE", key_id=held.id, limit=1000)
    told = values(answer, "RESOURCE")
    assert len(told) == RESOURCES + 1
    assert told["findings/*"] == (200 - RESOURCES, 0)
    assert total(answer) == (200, 0)
    few = usage(acme, "RESOURCE", key_id=held.id, limit=3).breakdowns[0]
    assert len(few.values) == 3
    assert sum(it.count.allowed for it in few.values) + few.rest.allowed == 200


def put(tenant: Tenant, key: str, hours: dict[int, int]) -> None:
    """Counts of a key, by the instant that an hour begins."""
    cells = Cells()
    for hour, count in hours.items():
        cells.cells[Cell(tenant.id, key, hour, "aiia", "", "findings:read", "findings", "ALLOWED")] = count
    assert tenant.server.app.store.usage.add(key, 1, cells, 0)


def instant(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000


def test_days_are_those_of_the_time_zone_over_its_change_of_clocks(acme: Tenant) -> None:
    """In Vienna the 25th of October 2026 has 25 hours, the 29th of March 23. Each hour counts once, in its own day."""
    held = acme.key()
    for first, last, hours in (
        ("2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00", 25),
        ("2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00", 23),
    ):
        start, end = instant(first), instant(last)
        assert (end - start) // HOUR == hours
        tenant, span = acme, {"since": stamp(start - DAY), "until": stamp(end + DAY)}
        key = acme.key().id
        put(tenant, key, dict.fromkeys(range(start - DAY, end + DAY, HOUR), 1))
        answer = usage(acme, "DAY", "HOUR", key_id=key, time_zone="Europe/Vienna", **span)
        assert [count for count, _ in values(answer, "DAY").values()] == [24, hours, 24]
        day = answer.breakdowns[0].values[1]
        assert (day.value, at_of(day.start)) == (first[:10], start)
        assert len(answer.breakdowns[1].values) == 48 + hours
        assert total(answer)[0] == 48 + hours
    refusal = refused(lambda: usage(acme, "DAY", key_id=held.id, time_zone="Mars/Olympus"))
    assert (refusal.reason, refusal.metadata["field"]) == ("INVALID_FIELD", "time_zone")


def test_a_span_counts_whole_hours_and_is_bounded(acme: Tenant) -> None:
    held, now = acme.key(), hour_of(acme.server.clock())
    put(acme, held.id, {now - HOUR: 1, now: 2, now + HOUR: 4})

    def counted(since: int, until: int) -> int:
        return total(usage(acme, key_id=held.id, since=stamp(since), until=stamp(until)))[0]

    assert counted(now, now + HOUR) == 2
    assert counted(now + 1, now + 2) == 2
    assert counted(now - 1, now + HOUR + 1) == 7
    for since, end in ((now, now), (now, now - 1), (now - 801 * DAY, now)):
        assert refused(lambda s=since, e=end: counted(s, e)).metadata["field"] == "scope.since"  # type: ignore[misc]  # bound


def test_usage_outlives_its_key(acme: Tenant) -> None:
    alice = acme.person()
    held = acme.key(scopes=["read:findings"], owner=alice)
    asked(acme, held.text)
    before = total(usage(acme, key_id=held.id))
    acme.root.keys.DeleteKey(keys_pb2.DeleteKeyRequest(organization=acme.id, id=held.id))
    assert asked(acme, held.text) == "KEY_REVOKED"
    assert sum(total(usage(acme, key_id=held.id))) == sum(before) + 1
    acme.root.directory.DeletePrincipal(directory_pb2.DeletePrincipalRequest(organization=acme.id, id=alice))
    assert sum(total(usage(acme, owner=alice))) == sum(before) + 1


def test_users_see_their_own_usage_and_nobody_elses(acme: Tenant, globex: Tenant) -> None:
    alice, bob = acme.person(), acme.person()
    mine, his = acme.key(owner=alice), acme.key(owner=bob)
    asked(acme, mine.text)
    flush(acme.server)
    api = acme.member(alice)

    def get(**scope: Any) -> Any:
        return api.usage.GetUsage(pb.GetUsageRequest(scope=pb.UsageScope(organization=acme.id, **scope)))

    assert sum(total(get(key_id=mine.id))) == 1
    assert sum(total(get(owner=alice))) == 1
    hidden, missing = refused(lambda: get(key_id=his.id)), refused(lambda: get(key_id="key_none"))
    assert hidden.reason == "CALLER_FORBIDDEN"
    assert hidden.about(his.id) == missing.about("key_none")
    for scope in ({"owner": bob}, {}, {"keyspace": "aiia"}):
        assert refused(lambda s=scope: get(**s)).reason == "CALLER_FORBIDDEN"  # type: ignore[misc]  # bound
    assert refused(lambda: usage(globex, key_id=mine.id)).reason == "NOT_FOUND"


def test_a_keyspace_is_seen_whole_by_the_operator_alone(acme: Tenant, globex: Tenant) -> None:
    for tenant in (acme, globex):
        at_desk(tenant)
        asked(tenant, tenant.key("desk", scopes=["guest"]).text, action="boards:read", keyspace="desk")
    flush(acme.server)
    scope = pb.UsageScope(organization="-", keyspace="desk")
    by_key = pb.GetUsageRequest(scope=scope, group_by=[DIMENSIONS["KEY"]], limit=1000)
    assert len(acme.root.usage.GetUsage(by_key).breakdowns[0].values) >= 2
    assert refused(lambda: acme.caller("root").usage.GetUsage(by_key)).reason == "CALLER_FORBIDDEN"
    by_key.scope.keyspace = ""
    wide = refused(lambda: acme.root.usage.GetUsage(by_key))
    assert wide.metadata["field"] == "scope.organization"


# --- exports ----------------------------------------------------------------------------------------------------------


def export(tenant: Tenant, kind: int, **scope: Any) -> tuple[str, list[pb.ExportUsageResponse]]:
    flush(tenant.server)
    request = pb.ExportUsageRequest(scope=pb.UsageScope(organization=tenant.id, **scope), format=kind)  # type: ignore[arg-type]  # an enum is an int
    parts = list(tenant.root.usage.ExportUsage(request))
    return "".join(it.part for it in parts), parts


@pytest.mark.parametrize("cells", [0, 1, 2500])
def test_an_export_is_one_valid_document_of_every_count(acme: Tenant, cells: int) -> None:
    now = hour_of(acme.server.clock())
    key = acme.key().id
    for start in range(0, cells, 100):
        counts = Cells()
        for i in range(start, min(start + 100, cells)):
            counts.cells[Cell(acme.id, key, now - i % 700 * HOUR, "aiia", "", f"findings:a{i}", "f", "ALLOWED")] = i + 1
        acme.server.app.store.usage.add(key, start + 1, counts, 0)
    text, parts = export(acme, pb.EXPORT_FORMAT_CSV)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert sum(int(row["count"]) for row in rows) == cells * (cells + 1) // 2
    assert len(rows) == len({row["action"] for row in rows}) == cells
    assert parts[0].total_rows == sum(it.rows for it in parts) == cells
    assert max(it.rows for it in parts) <= 1000
    objects = json.loads(export(acme, pb.EXPORT_FORMAT_JSON)[0])
    assert [{**it, "count": str(it["count"])} for it in objects] == rows
    if rows:
        assert rows[0]["outcome"] == "ALLOW"
        assert rows[0]["hour"].endswith(":00:00Z")


def test_no_text_of_an_export_is_a_formula_to_a_spreadsheet(acme: Tenant) -> None:
    now = hour_of(acme.server.clock())
    cells = Cells()
    nasty = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", 'a","b', "ä\nb"]
    for text in nasty:
        cells.cells[Cell(acme.id, "k", now, "aiia", "", "findings:read", text, "ALLOWED")] = 1
    acme.server.app.store.usage.add(acme.id, 1, cells, 0)
    rows = list(csv.DictReader(io.StringIO(export(acme, pb.EXPORT_FORMAT_CSV)[0], newline="")))
    shown = {row["resource"] for row in rows}
    assert shown == {f"'{it}" if it[0] in "=+-@" else it for it in nasty}
    assert {it["resource"] for it in json.loads(export(acme, pb.EXPORT_FORMAT_JSON)[0])} == set(nasty)


def test_an_export_needs_a_format_and_ends_with_the_right_to_it(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = refused(lambda: export(acme, pb.EXPORT_FORMAT_UNSPECIFIED))
    assert refusal.metadata["field"] == "format"
    held = acme.key("doorward", scopes=["viewer"])
    asked(acme, acme.key().text)
    flush(acme.server)
    reports = acme.server.app.servicers.usage._reports  # type: ignore[attr-defined]  # of a real servicer
    original = reports.export

    def revoked_meanwhile(*given: Any) -> Any:
        acme.server.app.store.update_key(
            acme.id, held.id, lambda it: (it.revoke(acme.server.clock(), ""), event(acme.id, "keys:revoke", held.id))
        )
        return original(*given)

    monkeypatch.setattr(reports, "export", revoked_meanwhile)
    asking = pb.ExportUsageRequest(scope=pb.UsageScope(organization=acme.id), format=pb.EXPORT_FORMAT_CSV)
    answers = acme.server.api(held.text).usage.ExportUsage(asking)
    assert refused(lambda: list(answers)).reason == "CALLER_UNAUTHENTICATED"


# --- the decision log -------------------------------------------------------------------------------------------------

AUDITED = """
keyspace: {name}
prefix: {name}
credentials: [{{header: x-api-key}}]
types: {{things: [read, write]}}
roles: {{reader: {{rules: [{{actions: ["things:read"]}}]}}}}
decision_log: {log}
"""


def audited(tenant: Tenant, name: str, log: str) -> str:
    source = AUDITED.format(name=name, log=log)
    tenant.root.keyspaces.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=source))
    return name


def logged(tenant: Tenant, size: int = 50, **scope: Any) -> list[pb.LoggedDecision]:
    found: list[pb.LoggedDecision] = []
    token = ""
    while True:
        request = pb.ListDecisionsRequest(
            scope=pb.UsageScope(organization=tenant.id, **scope), page_size=size, page_token=token
        )
        page = tenant.root.usage.ListDecisions(request)
        assert len(page.decisions) <= size
        found += page.decisions
        token = page.next_page_token
        if not token:
            return found


def test_where_all_is_recorded_each_decision_can_be_read_once_it_is_answered(acme: Tenant) -> None:
    name = audited(acme, "ledger", "{record: all}")
    alice = acme.person()
    held = acme.key(name, scopes=["reader"], owner=alice)
    settled(acme.server)
    answers: list[Any] = []
    for i, action in enumerate(["things:read", "things:write", "things:read"]):
        context = authz_pb2.Context(client_ip="192.0.2.1")
        request = question(held.text, action, f"things/{i}", keyspace=name, organization=acme.id, context=context)
        answers.append(acme.root.authz.Authorize(request))
        assert not answers[-1].HasField("lease_cacheable_for")
        assert not answers[-1].fail_open
        acme.server.clock.advance(1)
    item = authz_pb2.BatchAuthorizeItem(action="things:read")
    batch = authz_pb2.BatchAuthorizeRequest(key=held.text, keyspace=name, organization=acme.id, items=[item] * 2)
    answers += acme.root.authz.BatchAuthorize(batch).results
    found = logged(acme, 2, key_id=held.id)
    assert sorted(it.id for it in found) == sorted(it.decision_id for it in answers)
    first = found[-1]
    assert (first.keyspace, first.owner, first.action, first.resource) == (name, alice, "things:read", "things/0")
    assert (first.decision, first.reason) == (authz_pb2.DECISION_ALLOW, authz_pb2.REASON_ALLOWED)
    assert first.client_ip == "192.0.2.1"
    assert first.caller.startswith("operator/key_")
    assert [it.action for it in found][-2] == "things:write"
    assert held.text not in str(found)
    assert logged(acme, owner=alice) == found
    assert logged(acme, key_id=held.id, since=stamp(at_of(found[-2].at)), until=stamp(at_of(found[-3].at))) == [
        found[-2]
    ]


def test_what_cannot_be_recorded_is_not_answered(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a decision that is not in the log: an outage is no denial, and nothing counts that was not handed out."""
    name = audited(acme, "strict", "{record: all}")
    held = acme.key(name, scopes=["reader"])
    assert asked(acme, held.text, action="things:read", keyspace=name) == "ALLOWED"

    def full(*_: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(acme.server.app.store.usage, "record", full)
    refusal = refused(lambda: asked(acme, held.text, action="things:read", keyspace=name))
    assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    monkeypatch.undo()
    assert asked(acme, held.text, action="things:read", keyspace=name) == "ALLOWED"
    assert len(logged(acme, key_id=held.id)) == 2
    assert total(usage(acme, key_id=held.id)) == (2, 0)


def test_a_sample_holds_every_denial_and_nothing_else_unless_it_is_told_to(acme: Tenant) -> None:
    name = audited(acme, "sampled", "{record: sampled, to: [file]}")
    held = acme.key(name, scopes=["reader"])
    for action in ("things:read", "things:write", "things:read", "things:write"):
        asked(acme, held.text, action=action, keyspace=name)
    acme.server.on_loop(acme.server.app.recorder.flush)
    file = acme.server.app.config.decisions
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    mine = [it for it in lines if it["key"] == held.id]
    assert [it["action"] for it in mine] == ["things:write"] * 2
    assert mine[0]["event"] == "decision"
    assert mine[0]["reason"] == "SCOPE_INSUFFICIENT"
    assert logged(acme, key_id=held.id) == []


@pytest.mark.parametrize("address", ["\0", "nonsense", "x" * 1000])
def test_no_address_that_is_none_spoils_what_others_are_recorded_with(acme: Tenant, address: str) -> None:
    name = audited(acme, "spoiled", "{record: all}")
    context = authz_pb2.Context(client_ip=address)
    acme.caller("backend").authz.Introspect(
        authz_pb2.IntrospectRequest(key=never_made(name), keyspace=name, context=context)
    )
    flush(acme.server)
    assert [it.client_ip for it in logged(acme, keyspace=name)] == [""]
    answer = usage(acme, "ADDRESS", "UNIDENTIFIED", keyspace=name)
    assert values(answer, "ADDRESS") == {"": (0, 1)}
    assert [it.prefix for it in answer.unidentified] == [f"{name}_live"]


def _answers_first(patch: pytest.MonkeyPatch) -> None:
    """The record is written after the answer has left."""
    original, written = Recorder.record, set[asyncio.Task[None]]()

    async def record(self: Recorder, *given: Any) -> None:
        written.add(asyncio.create_task(original(self, *given)))

    patch.setattr(Recorder, "record", record)


def _answers_anyway(patch: pytest.MonkeyPatch) -> None:
    """What cannot be recorded is answered all the same."""
    original = Recorder.record

    async def record(self: Recorder, *given: Any) -> None:
        with suppress(StoreUnavailable):
            await original(self, *given)

    patch.setattr(Recorder, "record", record)


@pytest.mark.parametrize("plant", [_answers_first, _answers_anyway], ids=lambda it: it.__name__)
def test_planted_bugs_in_recording_are_found(acme: Tenant, plant: Any) -> None:
    with pytest.MonkeyPatch.context() as planted, pytest.MonkeyPatch.context() as inner:
        plant(planted)
        with pytest.raises(AssertionError):
            test_what_cannot_be_recorded_is_not_answered(acme, inner)


def test_a_cache_that_keeps_what_must_be_recorded_is_found(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    original = authorizing._cacheable_for

    def cacheable_for(caller: Any, found: Any, *rest: Any) -> int:
        unlogged = replace(found.keyspace, sections=Sections())
        return original(caller, found._replace(keyspace=unlogged), *rest)

    def found() -> bool:
        try:
            test_where_all_is_recorded_each_decision_can_be_read_once_it_is_answered(acme)
        except AssertionError:
            return True
        return False  # this replica may just have had no lease

    monkeypatch.setattr(authorizing, "_cacheable_for", cacheable_for)
    until(found)
