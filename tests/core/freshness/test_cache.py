"""What the cache keeps, drops, refuses and evicts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorward_server.core.freshness import ALL, Cache, Change, Dependency, Fill

KEY = Dependency.on_key("acme", "k1")
OTHER = Dependency.on_key("acme", "k2")
ACME = Dependency.on_organization("acme")


def opened(revision: int = 10, capacity: int = 100, negatives: int = 100, tombstones: int = 100) -> Cache[str]:
    cache: Cache[str] = Cache(capacity, negatives, tombstones)
    cache.start(revision)
    return cache


def offer(cache: Cache[str], key: str, revision: int, *dependencies: Dependency, known: bool = True) -> bool:
    return cache.offer(key, Fill(f"{key}@{revision}", revision, dependencies, known), cache.generation)


def found(cache: Cache[str], key: str) -> str | None:
    entry = cache.get(key)
    return entry.value if entry is not None else None


def test_a_closed_cache_keeps_nothing() -> None:
    cache: Cache[str] = Cache(10, 10)
    assert not offer(cache, "a", 99, KEY)
    cache.start(10)
    assert offer(cache, "a", 10, KEY)
    cache.clear()
    assert found(cache, "a") is None
    assert not offer(cache, "a", 99, KEY)


def test_a_change_drops_what_depends_on_it_and_nothing_else() -> None:
    cache = opened()
    assert offer(cache, "a", 10, KEY, ACME)
    assert offer(cache, "b", 10, OTHER)
    cache.apply([Change(11, ACME)], 12)
    assert (found(cache, "a"), found(cache, "b")) == (None, "b@10")
    assert cache.applied == 12


def test_a_fill_that_a_change_overtook_is_refused_and_one_that_saw_it_is_kept() -> None:
    cache = opened()
    cache.apply([Change(12, KEY)], 12)
    assert not offer(cache, "a", 11, KEY)
    assert not cache.fresh(11, (OTHER, KEY))
    assert offer(cache, "a", 12, KEY)
    assert offer(cache, "b", 11, OTHER)


def test_an_entry_read_ahead_of_the_log_outlives_the_row_that_it_has_seen() -> None:
    cache = opened()
    assert offer(cache, "a", 13, KEY)
    cache.apply([Change(12, KEY), Change(13, KEY)], 13)
    assert found(cache, "a") == "a@13"
    cache.apply([Change(14, KEY)], 14)
    assert found(cache, "a") is None


def test_what_was_read_ahead_is_forgotten_after_a_gap() -> None:
    cache = opened()
    assert offer(cache, "a", 10, KEY)
    assert offer(cache, "b", 11, OTHER)
    assert offer(cache, "c", 12, known=False)
    cache.forget_ahead()
    assert [found(cache, key) for key in "abc"] == ["a@10", None, None]


def test_everything_may_change_at_once() -> None:
    cache = opened()
    assert offer(cache, "a", 10, KEY)
    assert offer(cache, "b", 10, known=False)
    assert offer(cache, "c", 15, OTHER)
    cache.apply([Change(12, ALL)], 12)
    assert [found(cache, key) for key in "abc"] == [None, None, "c@15"]
    assert not offer(cache, "a", 11, KEY)
    assert offer(cache, "a", 12, KEY)


def test_fills_from_before_it_was_opened_are_refused() -> None:
    cache = opened(revision=10)
    assert not offer(cache, "a", 9, KEY)
    before = cache.generation
    cache.start(10)
    assert not cache.offer("a", Fill("a", 10, (KEY,)), before)


def test_a_tombstone_that_had_to_go_leaves_a_floor() -> None:
    cache = opened(tombstones=2)
    changes = [Change(11, KEY), Change(12, OTHER), Change(13, ACME)]
    cache.apply(changes, 13)
    assert not offer(cache, "a", 10, KEY)
    assert not offer(cache, "b", 10, Dependency.on_key("acme", "never changed"))
    assert offer(cache, "a", 11, KEY)
    assert not offer(cache, "b", 11, OTHER)


def test_an_older_fill_does_not_take_the_place_of_a_newer_one() -> None:
    cache = opened()
    assert offer(cache, "a", 12, KEY)
    assert not offer(cache, "a", 11, KEY)
    assert found(cache, "a") == "a@12"


def test_unknown_ids_never_push_out_known_ones() -> None:
    cache = opened(capacity=3, negatives=2)
    assert all(offer(cache, key, 10, KEY) for key in "abc")
    for number in range(50):
        assert offer(cache, f"garbage {number}", 10, Dependency.on_lookup("demo", str(number)), known=False)
    assert [found(cache, key) for key in "abc"] == ["a@10", "b@10", "c@10"]
    assert len(cache) == 5


def test_what_is_asked_for_stays_longer() -> None:
    cache = opened(capacity=3)
    for key in "abc":
        offer(cache, key, 10, KEY)
    assert found(cache, "a")
    offer(cache, "d", 10, KEY)
    assert [found(cache, key) is not None for key in "abcd"] == [True, False, True, True]


def test_an_unknown_id_that_becomes_known_is_known_only() -> None:
    cache = opened()
    lookup = Dependency.on_lookup("demo", "x")
    assert offer(cache, "x", 10, lookup, known=False)
    cache.apply([Change(11, lookup)], 11)
    assert found(cache, "x") is None
    assert offer(cache, "x", 11, KEY)
    assert len(cache) == 1


def test_many_are_dropped_at_once_as_one_by_one() -> None:
    cache = opened(capacity=5000)
    for number in range(3000):
        offer(cache, str(number), 10, ACME, Dependency.on_key("acme", str(number)))
    cache.apply([Change(11, ACME)], 11)
    assert len(cache) == 0
    assert offer(cache, "1", 11, ACME)


def test_rows_of_the_log_are_understood() -> None:
    assert Dependency.logged("KEY", "acme", "k1") == KEY
    assert Dependency.logged("LOOKUP", "acme", "demo/x") == Dependency.on_lookup("demo", "x")
    assert Dependency.logged("ALL", "", "") == ALL
    assert Dependency.logged("SOMETHING_NEWER", "acme", "x") == ALL


NAMES = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), NAMES),
        st.tuples(st.just("all"), NAMES),
        st.tuples(st.just("poll"), NAMES),
        st.tuples(st.just("read"), NAMES),
        st.tuples(st.just("land"), NAMES),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 4), st.integers(1, 4))
def test_whatever_happens_an_entry_is_what_the_store_held_when_all_applied_changes_were_made(
    steps: list[tuple[str, str]], capacity: int, tombstones: int
) -> None:
    """The store is a counter per name. Reads land late and in any order, polls come whenever they come."""
    revision = 1
    stored = dict.fromkeys("abcd", 1)
    log: list[Change] = []
    reads: dict[str, list[Fill[int]]] = {name: [] for name in "abcd"}
    cache: Cache[int] = Cache(capacity, 1, tombstones)
    cache.start(revision)
    applied = dict(stored)
    for step, name in steps:
        if step in ("change", "all"):
            revision += 1
            stored = {it: revision if it == name or step == "all" else was for it, was in stored.items()}
            log.append(Change(revision, ALL if step == "all" else Dependency.on_key("acme", name)))
        elif step == "read":
            reads[name].append(Fill(stored[name], revision, (Dependency.on_key("acme", name),)))
        elif step == "land" and reads[name]:
            cache.offer(name, reads[name].pop(0), cache.generation)
        elif step == "poll":
            cache.apply([change for change in log if change.revision > cache.applied], revision)
            applied = dict(stored)
        for it in "abcd":
            entry = cache.get(it)
            assert entry is None or applied[it] <= entry.value <= stored[it]
        assert len(cache) <= capacity
