"""What a request may cost before the guard is asked: each thing is looked at once, and nothing of what is too much."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from doorward.v1 import authz_pb2, keys_pb2, usage_pb2
from doorward_server.core.errors import DoorwardError, InvalidField, UnknownReference
from doorward_server.service.limiting import FREE
from doorward_server.store.usage import UsageStore
from doorward_server.wire import asking, authz, convert, gate
from tests.wire.serving import Server, refused
from tests.wire.tenants import Tenant


class TooMany:
    """A repeated field with more entries than any may have; nobody may look at one."""

    def __len__(self) -> int:
        return 101

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("somebody looked")

    items = __iter__


@pytest.mark.parametrize(
    "convert_it",
    [
        lambda many: convert.from_texts("scopes", many),
        convert.from_metadata,
        convert.from_key_bindings,
        lambda many: convert.from_attributes("principal.attributes", many),
        lambda many: convert.bounded("filter.states", many),
    ],
)
def test_of_a_list_that_is_too_long_no_entry_is_looked_at(convert_it: Callable[[Any], object]) -> None:
    with pytest.raises(InvalidField, match=r"must have at most (64|100) entries"):
        convert_it(TooMany())


def test_a_field_that_a_mask_names_often_is_parsed_once_and_of_too_many_names_none() -> None:
    parsed: list[str] = []

    def parser(name: str) -> Callable[[Any], object]:
        return lambda _: parsed.append(name)

    parsers = {name: parser(name) for name in ("name", "scopes", "metadata")}
    assert list(convert.masked(None, FieldMask(paths=["name"] * 3), parsers)) == ["name"]
    assert parsed == ["name"]
    with pytest.raises(InvalidField, match="update_mask: must have at most 3 entries"):
        convert.masked(None, FieldMask(paths=["name"] * 4), parsers)
    assert parsed == ["name"]


def test_of_a_batch_that_is_too_long_no_question_is_looked_at(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    original = asking.read_item

    def counted(*given: Any) -> Any:
        looked.append(given)
        return original(*given)

    monkeypatch.setattr("doorward_server.wire.authz.read_item", counted)
    item = authz_pb2.BatchAuthorizeItem(action="findings:read")

    def batch(count: int) -> authz_pb2.BatchAuthorizeRequest:
        items = [item] * count
        return authz_pb2.BatchAuthorizeRequest(key="x", keyspace="aiia", organization="operator", items=items)

    refusal = refused(lambda: server.api().authz.BatchAuthorize(batch(101)))
    assert (refusal.reason, refusal.metadata["field"], looked) == ("INVALID_FIELD", "items", [])
    assert len(server.api().authz.BatchAuthorize(batch(100)).results) == len(looked) == 100


def test_credentials_are_searched_for_in_http_parts_of_a_usual_size_only(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(**http: Any) -> authz_pb2.AuthorizeRequest:
        return authz_pb2.AuthorizeRequest(
            http=authz_pb2.HttpRequest(**http), keyspace="aiia", organization="operator", action="findings:read"
        )

    def header(name: str, value: str) -> authz_pb2.HttpHeader:
        return authz_pb2.HttpHeader(name=name, value=value)

    for request, field in (
        (asks(query="&" * 8193), "http.query"),
        (asks(headers=[header("x", "y" * 8193)]), "http.headers"),
        (asks(headers=[header("x" * 8193, "y")]), "http.headers"),
        (asks(headers=[header("x", "y")] * 101), "http.headers"),
    ):
        refusal = refused(lambda r=request: server.api().authz.Authorize(r))  # type: ignore[misc]  # bound
        assert (refusal.code, refusal.reason, refusal.metadata["field"]) == ("INVALID_ARGUMENT", "INVALID_FIELD", field)
    most = asks(query="&" * 8192, headers=[header("x" * 8192, "y" * 8192)] * 10)
    assert server.api().authz.Authorize(most).reason == authz_pb2.REASON_CREDENTIAL_MISSING


def test_an_error_of_one_question_is_as_long_as_that_of_a_call() -> None:
    long = UnknownReference("action", "permission", "x" * 100_000)
    error: DoorwardError = long
    result = authz.AuthzServicer._result(None, None, error, "", FREE).error  # type: ignore[arg-type]  # neither is looked at
    assert len(result.message.encode()) <= 800
    assert {len(value.encode()) <= 512 for value in result.metadata.values()} == {True}


def test_nothing_but_what_is_too_long_is_refused_so(server: Server) -> None:
    key = keys_pb2.CreateKeyRequest(keyspace="aiia", name="a key", organization="operator")
    for count in (64, 65):
        key.metadata.update({f"m{i}": "x" for i in range(count)})
        if count == 64:
            assert len(server.api().keys.CreateKey(key).key.metadata) == 64
        else:
            assert refused(lambda: server.api().keys.CreateKey(key)).metadata["field"] == "metadata"


def test_reports_that_take_long_hold_up_nobody_who_ends_a_key(
    server: Server, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, sums = threading.Event(), UsageStore.sum_by

    def slow(self: UsageStore, *asked: Any) -> Any:
        go_on.wait(60)
        return sums(self, *asked)

    monkeypatch.setattr(UsageStore, "sum_by", slow)
    held = acme.key("aiia")
    with ThreadPoolExecutor(10) as threads:
        reports = [threads.submit(acme.root.usage.GetUsage, usage_pb2.GetUsageRequest()) for _ in range(10)]
        try:
            revoked = acme.root.keys.RevokeKey(keys_pb2.RevokeKeyRequest(organization=acme.id, id=held.id), timeout=5)
        finally:
            go_on.set()
        assert revoked.key.state == keys_pb2.KEY_STATE_REVOKED
        assert all(it.result() for it in reports)


def test_a_caller_who_streams_nothing_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "SILENCE", 0.01)

    async def silent() -> AsyncIterator[bytes]:
        yield b""
        await asyncio.Event().wait()

    async def listen() -> list[Any]:
        return [message async for message in gate._stream(keys_pb2.ImportKeysRequest.FromString, silent())]

    with pytest.raises(InvalidField, match=r"must go on within 0\.01 s"):
        asyncio.run(listen())
