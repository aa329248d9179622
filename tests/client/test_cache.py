"""The cache of decisions by itself: what two questions it tells apart, what it counts, what it sends."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from doorward import HttpRequest, Secret, SentRelation
from doorward import cache as cache_module
from doorward.cache import MOST_HITS, DecisionCache
from doorward.calls import authz
from doorward.calls.decided import read_decision
from doorward.v1 import authz_pb2 as pb

SECOND = 1_000_000_000
BERLIN = ZoneInfo("Europe/Berlin")
TEXTS = st.text(st.sampled_from("ab/:#@ \x00é"), max_size=4)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT64: st.integers(-3, 3),
    FieldDescriptor.TYPE_INT32: st.integers(0, 3),
    FieldDescriptor.TYPE_DOUBLE: st.sampled_from([0.5, 1.5]),
}
KEPT_OUT = ("dry_run", "consistency")
"""Fields of questions that are never answered from a cache."""


def messages(kind: Any, *without: str) -> st.SearchStrategy[Any]:
    """Messages of a type with any of its fields set: whatever fields it has, also those of a later version."""
    fields = [field for field in kind.DESCRIPTOR.fields if field.name not in without]

    @st.composite
    def message(draw: st.DrawFn) -> Any:
        made = kind()
        for field in draw(st.lists(st.sampled_from(fields), max_size=6, unique_by=lambda it: it.name)):
            fill(draw, made, field)
        return made

    return message()


def fill(draw: st.DrawFn, made: Any, field: FieldDescriptor) -> None:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        for name in draw(st.lists(TEXTS, max_size=2)):
            one(draw, getattr(made, field.name)[name], entry.fields_by_name["value"])
    elif field.is_repeated:
        for _ in range(draw(st.integers(0, 2))):
            if entry is None:
                getattr(made, field.name).append(draw(SCALARS[field.type]))
            else:
                one(draw, getattr(made, field.name).add(), field)
    elif entry is not None:
        getattr(made, field.name).SetInParent()
        one(draw, getattr(made, field.name), field)
    else:
        setattr(made, field.name, draw(SCALARS[field.type]))


def one(draw: st.DrawFn, into: Message, field: FieldDescriptor) -> None:
    assert field.message_type is not None
    if field.message_type.fields:
        into.MergeFrom(draw(messages(type(into))))


@settings(max_examples=300, deadline=None)
@given(first=messages(pb.AuthorizeRequest, *KEPT_OUT), second=messages(pb.AuthorizeRequest, *KEPT_OUT))
def test_two_questions_never_share_an_answer(first: Any, second: Any) -> None:
    cache = DecisionCache(10)
    assert (cache.key(first, "") == cache.key(second, "")) is (first == second)
    assert cache.key(first, "") == cache.key(copy.deepcopy(first), "")
    assert cache.key(first, "acme/alice") != cache.key(first, "")


@pytest.mark.parametrize("field", [field.name for field in pb.AuthorizeRequest.DESCRIPTOR.fields])
def test_every_field_of_a_question_makes_it_another_one(field: str) -> None:
    """Whatever fields there are. A planted cache that leaves one out must be found by this."""
    plain, cache = pb.AuthorizeRequest(), DecisionCache(10)
    for other in changed(field):
        if field in KEPT_OUT:
            assert cache.key(other, "") is None
        else:
            assert cache.key(other, "") != cache.key(plain, "")


def changed(field: str) -> list[pb.AuthorizeRequest]:
    """Questions in which *field* says something."""
    of = pb.AuthorizeRequest.DESCRIPTOR.fields_by_name[field]
    request: Any = pb.AuthorizeRequest()
    if of.is_repeated:
        getattr(request, field).add()
    elif of.message_type is not None:
        getattr(request, field).SetInParent()
    else:
        setattr(request, field, {FieldDescriptor.TYPE_BOOL: True, FieldDescriptor.TYPE_INT64: 3}.get(of.type, "x"))
    return [request]


@pytest.mark.parametrize("field", ["resource", "organization", "context", "relations", "environment", "key"])
def test_a_cache_that_forgot_a_field_would_be_found(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = DecisionCache.key

    def forgetting(self: DecisionCache, request: pb.AuthorizeRequest, acting_for: str) -> Any:
        less = copy.deepcopy(request)
        less.ClearField(field)  # type: ignore[arg-type]  # a name of one
        return right(self, less, acting_for)

    monkeypatch.setattr(DecisionCache, "key", forgetting)
    with pytest.raises(AssertionError):
        test_every_field_of_a_question_makes_it_another_one(field)


class Clock:
    """Nanoseconds that stand still."""

    def __init__(self) -> None:
        self.now = 5 * SECOND

    def __call__(self) -> int:
        return self.now


def question(resource: str = "42", keyspace: str = "aiia") -> pb.AuthorizeRequest:
    about = pb.Resource(type="findings", id=resource)
    return pb.AuthorizeRequest(
        key="hush", keyspace=keyspace, action="findings:read", resource=about, organization="acme"
    )


def answer(revision: int = 7, lasting: int = 60) -> pb.AuthorizeResponse:
    told = pb.AuthorizeResponse(
        decision=pb.DECISION_ALLOW,
        reason=pb.REASON_ALLOWED,
        revision=revision,
        depends_on=[1],
        identity=pb.Identity(organization="acme", key_id="key_1", secret_id="sec_1", metadata={"team": "red"}),
    )
    told.lease_cacheable_for.seconds = lasting
    return told


def leased(capacity: int = 10) -> tuple[DecisionCache, Clock]:
    clock = Clock()
    cache = DecisionCache(capacity, clock)
    cache.connected()
    sequence = cache.ping().ping.sequence
    cache.received(pong(sequence, 7))
    return cache, clock


def pong(sequence: int, revision: int) -> pb.LeaseResponse:
    told = pb.LeaseResponse.Pong(sequence=sequence, revision=revision)
    told.max_staleness.seconds = 1
    return pb.LeaseResponse(pong=told)


def keep(cache: DecisionCache, request: pb.AuthorizeRequest, told: pb.AuthorizeResponse | None = None) -> Any:
    told = told or answer()
    key = cache.key(request, "")
    assert key is not None
    cache.offer(cache.begin(key), request, told, read_decision(told))
    return key


def test_what_is_kept_is_found_while_the_lease_lasts() -> None:
    cache, clock = leased()
    key = keep(cache, question())
    found = cache.find(key)
    assert found is not None
    assert found.allowed
    clock.now += SECOND
    assert cache.find(key) is None
    info = cache.info()
    assert (info.hits, info.asked, info.size, info.leased) == (1, 1, 1, False)


def test_an_answer_that_may_not_be_kept_is_not() -> None:
    cache, _ = leased()
    assert cache.find(keep(cache, question(), answer(lasting=0))) is None


def test_pings_name_what_is_kept_and_tell_of_hits_once() -> None:
    cache, _ = leased()
    key = keep(cache, question())
    for _ in range(3):
        cache.find(key)
    told = cache.ping()
    assert (told.organization, list(told.keyspaces), len(told.hits)) == ("acme", ["aiia"], 1)
    hit = told.hits[0]
    assert (hit.organization, hit.keyspace, hit.key_id, hit.secret_id) == ("acme", "aiia", "key_1", "sec_1")
    assert (hit.action, hit.resource, hit.reason, hit.count) == ("findings:read", "findings/42", pb.REASON_ALLOWED, 3)
    assert hit.last_at.seconds > 0
    assert not cache.ping().hits


def test_hits_of_an_answer_that_is_gone_are_told_too() -> None:
    cache, _ = leased()
    key = keep(cache, question())
    cache.find(key)
    invalidation = pb.LeaseResponse.Invalidation(revision=8, dropped=[1])
    assert cache.received(pb.LeaseResponse(invalidation=invalidation))
    assert cache.find(key) is None
    assert [hit.count for hit in cache.ping().hits] == [1]


def test_many_hits_go_in_several_messages() -> None:
    cache, _ = leased(2 * MOST_HITS)
    for number in range(MOST_HITS + 5):
        cache.find(keep(cache, question(str(number))))
    assert [len(cache.ping().hits) for _ in range(3)] == [MOST_HITS, 5, 0]


def test_a_cache_holds_decisions_of_so_many_keyspaces_as_a_ping_can_name() -> None:
    cache, _ = leased(1000)
    for number in range(cache_module.MOST_KEYSPACES + 1):
        keep(cache, question(keyspace=f"k{number}"))
    assert cache.info().size == cache_module.MOST_KEYSPACES
    assert len(cache.ping().keyspaces) == cache_module.MOST_KEYSPACES


def test_no_hit_is_lost_or_counted_twice_by_threads() -> None:
    cache, _ = leased()
    key = keep(cache, question())
    threads = [threading.Thread(target=lambda: [cache.find(key) for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    told = 0
    while any(thread.is_alive() for thread in threads):
        told += sum(hit.count for hit in cache.ping().hits)
    for thread in threads:
        thread.join()
    told += sum(hit.count for hit in cache.ping().hits)
    assert told == cache.info().hits == 8000


def test_a_hit_waits_for_no_lock() -> None:
    cache, _ = leased()
    key = keep(cache, question())
    words = cache.words("", ("text",), {})
    assert words is not None
    cache._worded[words] = key
    with ThreadPoolExecutor(1) as thread, cache._lock:
        assert thread.submit(cache.find, key).result(60) is not None
        assert thread.submit(cache.find_said, words).result(60) is not None


def test_a_silent_stream_is_given_up() -> None:
    cache, clock = leased()
    assert not cache.overdue()
    clock.now += 3 * SECOND + 1
    assert cache.overdue()


def test_what_is_forgotten_is_gone_lease_and_all() -> None:
    cache, _ = leased()
    request = question()
    keep(cache, request)
    cache.forget()
    key = cache.key(request, "")
    assert key is not None
    assert cache.find(key) is None
    info = cache.info()
    assert (info.hits, info.asked, info.size, info.leased) == (0, 0, 0, False)


def test_no_key_text_is_kept() -> None:
    cache, _ = leased()
    keep(cache, question())
    leases: Any = cache._leases
    assert "hush" not in repr([*leases._entries, *[vars_of(it.value) for it in leases._entries.values()]])


def vars_of(kept: Any) -> dict[str, Any]:
    return {name: getattr(kept, name) for name in ("decision", "report")}


def test_a_shared_answer_cannot_be_changed() -> None:
    cache, _ = leased()
    found = cache.find(keep(cache, question()))
    assert found is not None
    assert found.identity is not None
    metadata: Any = found.identity.metadata
    for change in (
        lambda: metadata.__setitem__("a", "b"),
        lambda: metadata.update(a="b"),
        metadata.clear,
        lambda: metadata.pop("team"),
    ):
        with pytest.raises(TypeError, match="not changed"):
            change()
    assert (metadata, json.dumps(metadata)) == ({"team": "red"}, '{"team": "red"}')
    assert pickle.loads(pickle.dumps(metadata)) == {"team": "red"}


# --- the words of a question ------------------------------------------------------------------------------------------

VALUES: dict[str, tuple[Any, Any]] = {
    "dry_run": (True, False),
    "timeout": (1, 2),
    "http": (HttpRequest({"x": "1"}), HttpRequest({"x": "2"})),
    "attributes": ({"open": 1}, {"open": True}),
    "facts": ({"mfa": 1}, {"mfa": 1.0}),
    "relations": ([SentRelation("a")], [SentRelation("b")]),
    "at": (datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN), datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)),
}
"""Two values of each argument that is not a text; some look alike to Python, and are not."""


@pytest.mark.parametrize("name", inspect.signature(authz.authorize).parameters)
def test_words_tell_every_argument_apart(name: str) -> None:
    """Also one that is added tomorrow. None stands for "look at the request", which tells all apart."""
    cache = DecisionCache(10)
    one, other = (cache.words("", (), {name: value}) for value in VALUES.get(name, ("a", "b")))
    assert one is None or one != other
    assert cache.words("", (), {name: None}) != cache.words("", (), {})


def test_words_tell_apart_what_looks_alike() -> None:
    cache = DecisionCache(10)
    alike = [("", ("a",), {}), ("a", (), {}), ("", (), {"a": "a"}), ("", ("a", "a"), {}), ("", ("a', 'a",), {})]
    alike += [("", (), {"consistency": value}) for value in (1, True, 1.0, "1")]  # type: ignore[dict-item]
    assert len({cache.words(*it) for it in alike}) == len(alike)
    assert DecisionCache(10).words(*alike[0]) != cache.words(*alike[0])  # nobody can look for a text outside of here


def test_a_secret_is_no_plain_word() -> None:
    assert DecisionCache(10).words("", (Secret("hush"),), {}) is None


# --- what the server hears --------------------------------------------------------------------------------------------


def test_whose_key_may_not_be_known_is_not_kept() -> None:
    """Its hits would be reported about no key, which ends the stream."""
    cache, _ = leased()
    nobody = answer()
    nobody.ClearField("identity")
    assert cache.find(keep(cache, question(), nobody)) is None
    assert not cache.wanted


def test_pings_name_only_what_was_asked_about_together() -> None:
    cache, _ = leased()
    for organization, keyspace in (("acme", "aiia"), ("globex", "fegura"), ("acme", "faction")):
        request = question(keyspace=keyspace)
        request.organization = organization
        keep(cache, request)
    named = [(told.organization, set(told.keyspaces)) for told in (cache.ping() for _ in range(4))]
    assert named == [("acme", {"aiia", "faction"}), ("globex", {"fegura"})] * 2


def test_so_many_organizations_are_named_and_no_more() -> None:
    cache, _ = leased(1000)
    for number in range(cache_module.MOST_ORGANIZATIONS + 5):
        request = question()
        request.organization = f"o{number}"
        keep(cache, request)
    named = {cache.ping().organization for _ in range(2 * cache_module.MOST_ORGANIZATIONS)}
    assert named == {f"o{number}" for number in range(5, cache_module.MOST_ORGANIZATIONS + 5)}
    assert cache.info().size == cache_module.MOST_ORGANIZATIONS + 5


def test_after_a_refusal_nothing_is_left_and_nothing_asked_for() -> None:
    """Else a keyspace that the caller may not lease any more would keep it from all others for good."""
    cache, _ = leased()
    key = keep(cache, question())
    cache.refused()
    assert cache.find(key) is None
    assert not cache.wanted
    assert not cache.ping().keyspaces


def test_of_other_keyspaces_than_those_named_nothing_is_kept() -> None:
    clock = Clock()
    cache = DecisionCache(10, clock, keyspaces=["aiia"])
    cache.connected()
    cache.received(pong(cache.ping().ping.sequence, 7))
    assert cache.find(keep(cache, question(keyspace="fegura"))) is None
    assert cache.find(keep(cache, question()))


def test_a_closed_cache_gives_and_keeps_nothing() -> None:
    cache, _ = leased()
    key = keep(cache, question())
    cache.close()
    assert cache.find(key) is None
    cache.connected()
    cache.received(pong(cache.ping().ping.sequence, 7))
    assert cache.find(keep(cache, question())) is None


def test_hits_whose_report_was_not_confirmed_when_the_stream_broke_are_lost_and_counted() -> None:
    cache, _ = leased()
    key = keep(cache, question())
    cache.find(key)
    confirmed = cache.ping()
    cache.received(pong(confirmed.ping.sequence, 7))
    cache.connected()
    assert cache.info().lost == 0
    cache.received(pong(cache.ping().ping.sequence, 7))
    key = keep(cache, question())
    for _ in range(3):
        cache.find(key)
    cache.ping()
    cache.connected()
    assert cache.info().lost == 3
    assert not cache.ping().hits


def test_hits_that_were_not_sent_yet_survive_the_end_of_a_stream() -> None:
    cache, _ = leased()
    cache.find(keep(cache, question()))
    cache.connected()
    assert [hit.count for hit in cache.ping().hits] == [1]
    assert cache.info().lost == 0


def test_what_waits_to_be_reported_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MOST_WAITING", 3)
    cache, _ = leased()
    for number in range(5):
        cache.find(keep(cache, question(str(number))))
    assert len(cache.ping().hits) == 3
    assert cache.info().lost == 2


def test_pings_come_sooner_while_there_is_more_to_report() -> None:
    cache, _ = leased(1000)
    assert cache.pause == 0.5
    for number in range(2 * MOST_HITS + 1):
        cache.find(keep(cache, question(str(number))))
    cache.ping()
    assert cache.pause == cache_module.SOON
    cache.ping()
    assert cache.pause == 0.5
