"""Guard rails: each rule by itself, for everything that a rule can meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from doorward_server.core.errors import CallerForbidden, InvalidField, KeyspaceInvalid, TooManyActiveKeys
from doorward_server.core.model import DAY, Ceiling, Key, KeyBinding, Secret
from doorward_server.core.rails import (
    MAX_REPLACED,
    ActiveLimit,
    Exceed,
    Hand,
    Need,
    Rails,
    Unwise,
    check_changed,
    check_ended_by,
    check_made,
    check_made_by,
    check_rotated,
    rotate_by,
    says_nothing,
    unwise,
)
from doorward_server.core.verify import Verifier
from doorward_server.service.keyspace_file import load_keyspace
from tests.fakes import SECOND

NOW = 1_800_000_000 * SECOND
YEAR = 365 * DAY
READ = KeyBinding("read", ("*",))


def key(**changes: Any) -> Key:
    made = Key(
        organization="acme",
        id="key_1",
        keyspace="aiia",
        owner=None,
        name="erp-order-sync",
        description="",
        environment="live",
        type="",
        enabled=True,
        ceiling=Ceiling.LIST,
        scopes=("read",),
        bindings=(),
        allowed_cidrs=(),
        metadata={},
        not_before=None,
        expires_at=None,
        created_at=NOW,
        updated_at=NOW,
        secrets=(Secret("sec_1", "look", Verifier("hmac-sha256", 1, bytes(32)), "9xQz", NOW),),
    )
    return replace(made, **changes)


PRESETS = Rails(lifetimes=frozenset({30 * DAY, 90 * DAY, YEAR}))
ONLY_PRESETS = replace(PRESETS, custom_expiry=False)
TESTING = Rails(scopes_by_environment={"test": frozenset({"read"})})
A_YEAR_AT_MOST = Rails(max_lifetime=YEAR)

# What the keyspace says, the key, the span it was asked for with, and the field that is at fault: none if it is fine.
MADE: dict[str, tuple[Rails, dict[str, Any], int | None, str]] = {
    "no rails refuse nothing": (Rails(), {"scopes": (), "type": "any"}, None, ""),
    "an owner is required": (Rails(owner=Need.REQUIRED), {}, None, "owner"),
    "an owner is there": (Rails(owner=Need.REQUIRED), {"owner": "alice"}, None, ""),
    "an owner is one too many": (Rails(owner=Need.FORBIDDEN), {"owner": "alice"}, None, "owner"),
    "no owner, and none wanted": (Rails(owner=Need.FORBIDDEN), {}, None, ""),
    "a name in its form": (Rails(name_pattern="*-order-*"), {}, None, ""),
    "a name in no form": (Rails(name_pattern="*-production"), {}, None, "name"),
    "a name that only begins so": (Rails(name_pattern="erp"), {}, None, "name"),
    "a name in which * would have to overlap": (Rails(name_pattern="ab*ba"), {"name": "aba"}, None, "name"),
    "a name in which a dot is a dot": (Rails(name_pattern="erp.*"), {}, None, "name"),
    "a type of the list": (Rails(types=("ci",)), {"type": "ci"}, None, ""),
    "a type of no list": (Rails(types=("ci",)), {"type": "CI"}, None, "type"),
    "no type where there is a list": (Rails(types=("ci",)), {}, None, "type"),
    "one scope of one": (Rails(min_scopes=1, max_scopes=1), {}, None, ""),
    "one binding of one": (Rails(min_scopes=1, max_scopes=1), {"scopes": (), "bindings": (READ,)}, None, ""),
    "a scope and a binding of one": (Rails(max_scopes=1), {"bindings": (READ,)}, None, "scopes"),
    "no scope of one": (Rails(min_scopes=1), {"scopes": ()}, None, "scopes"),
    "an owner's ceiling counts nothing": (
        Rails(min_scopes=1, max_scopes=1),
        {"scopes": (), "ceiling": Ceiling.OWNER, "owner": "alice"},
        None,
        "",
    ),
    "a scope of the environment": (TESTING, {"environment": "test"}, None, ""),
    "a scope of another environment": (TESTING, {"environment": "test", "scopes": ("write",)}, None, "scopes"),
    "a binding of another environment": (
        TESTING,
        {"environment": "test", "bindings": (KeyBinding("write", ("flows/1",)),)},
        None,
        "bindings",
    ),
    "an environment without a list": (TESTING, {"scopes": ("write",)}, None, ""),
    "an owner's ceiling is no way round the list": (
        TESTING,
        {"environment": "test", "ceiling": Ceiling.OWNER, "scopes": (), "owner": "alice"},
        None,
        "ceiling",
    ),
    "never, where an expiry is required": (Rails(expiry=Need.REQUIRED), {}, None, "expiry"),
    "never, where there is a maximum": (A_YEAR_AT_MOST, {}, None, "expiry"),
    "an expiry where there is none": (Rails(expiry=Need.FORBIDDEN), {"expires_at": NOW + DAY}, DAY, "expiry"),
    "never, where there is none": (Rails(expiry=Need.FORBIDDEN), {}, None, ""),
    "exactly the maximum": (A_YEAR_AT_MOST, {"expires_at": NOW + YEAR}, YEAR, ""),
    "a microsecond more": (A_YEAR_AT_MOST, {"expires_at": NOW + YEAR + 1}, None, "expiry"),
    "a preset": (PRESETS, {"expires_at": NOW + 90 * DAY}, 90 * DAY, ""),
    "a span that is none": (PRESETS, {"expires_at": NOW + 91 * DAY}, 91 * DAY, "expiry"),
    "an instant beside presets": (PRESETS, {"expires_at": NOW + 91 * DAY}, None, ""),
    "an instant where only presets go": (ONLY_PRESETS, {"expires_at": NOW + 90 * DAY}, None, "expiry"),
    "never beside presets": (ONLY_PRESETS, {}, None, ""),
    "an instant, and custom ones are off": (Rails(custom_expiry=False), {"expires_at": NOW + DAY}, None, "expiry"),
}


@pytest.mark.parametrize("case", MADE)
def test_a_key_that_is_made(case: str) -> None:
    rails, changes, span, field = MADE[case]
    if not field:
        check_made(rails, key(**changes), NOW, span)
        return
    with pytest.raises(InvalidField) as refused:
        check_made(rails, key(**changes), NOW, span)
    assert refused.value.metadata["field"] == field


STRICT = Rails(
    owner=Need.REQUIRED,
    name_pattern="*-live",
    types=("ci",),
    min_scopes=2,
    expiry=Need.REQUIRED,
    max_lifetime=DAY,
)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, ""),
        ({"description": "new", "enabled": False, "metadata": {"a": "b"}}, ""),
        ({"name": "other"}, "name"),
        ({"name": "other-live"}, ""),
        ({"type": "x"}, "type"),
        ({"scopes": ("write",)}, "scopes"),
        ({"bindings": (READ,)}, ""),
        ({"scopes": (), "bindings": (READ,)}, "scopes"),
        ({"expires_at": NOW + 2 * DAY}, "expiry"),
        ({"expires_at": NOW + DAY}, ""),
        ({"expires_at": None}, ""),
    ],
    ids=str,
)
def test_only_what_changes_is_looked_at(changes: dict[str, Any], field: str) -> None:
    """The key breaks every rail there is: they came after it."""
    before = key()
    if not field:
        check_changed(STRICT, before, replace(before, **changes), NOW, None)
        return
    with pytest.raises(InvalidField) as refused:
        check_changed(STRICT, before, replace(before, **changes), NOW, None)
    assert refused.value.metadata["field"] == field


def test_the_expiry_cannot_be_taken_away_where_it_is_required() -> None:
    before = key(expires_at=NOW + DAY)
    with pytest.raises(InvalidField, match="expiry"):
        check_changed(Rails(expiry=Need.REQUIRED), before, replace(before, expires_at=None), NOW, None)


def test_rotating_asks_what_the_key_is_but_not_when_it_ends() -> None:
    check_rotated(A_YEAR_AT_MOST, key(expires_at=NOW + 2 * YEAR))
    check_rotated(ONLY_PRESETS, key(expires_at=NOW + 2 * YEAR))
    for rails in (Rails(owner=Need.REQUIRED), Rails(types=("ci",)), Rails(min_scopes=2), Rails(expiry=Need.REQUIRED)):
        with pytest.raises(InvalidField):
            check_rotated(rails, key())


@pytest.mark.parametrize("hand", Hand)
def test_whose_hand(hand: Hand) -> None:
    mine, owned = Rails(made_by=frozenset({hand}), ended_by=frozenset({hand})), key(owner="alice")
    (other,) = set(Hand) - {hand}
    check_made_by(mine, hand, "keys:create", "organizations/acme/keyspaces/aiia/keys")
    check_ended_by(mine, owned, hand, "keys:revoke", "organizations/acme/keyspaces/aiia/keys/key_1")
    with pytest.raises(CallerForbidden, match="are made by") as made:
        check_made_by(mine, other, "keys:create", "organizations/acme/keyspaces/aiia/keys")
    assert made.value.metadata["permission"] == "keys:create"
    with pytest.raises(CallerForbidden, match="are ended by") as ended:
        check_ended_by(mine, owned, other, "keys:delete", "organizations/acme/keyspaces/aiia/keys/key_1")
    assert ended.value.metadata["permission"] == "keys:delete"


def test_what_nobody_owns_an_administrator_can_end() -> None:
    check_ended_by(Rails(ended_by=frozenset({Hand.OWNER})), key(), Hand.ADMINISTRATOR, "keys:revoke", "x")


ROTATION = Rails(rotate_every=90 * DAY, rotate_every_by_type={"development": 30 * DAY})


@pytest.mark.parametrize(
    ("rails", "changes", "after"),
    [
        (ROTATION, {}, 90 * DAY),
        (ROTATION, {"type": "development"}, 30 * DAY),
        (Rails(rotate_every_by_type={"ci": DAY}), {}, None),
        (Rails(), {}, None),
        (ROTATION, {"revoked_at": NOW}, None),
    ],
)
def test_when_to_rotate(rails: Rails, changes: dict[str, Any], after: int | None) -> None:
    assert rotate_by(rails, key(**changes)) == (None if after is None else NOW + after)


def limit(maximum: int, on_exceed: Exceed) -> ActiveLimit:
    return ActiveLimit(maximum, on_exceed, NOW, lambda old, new: (_ for _ in ()).throw(AssertionError(old, new)))


@pytest.mark.parametrize(("others", "surplus"), [(0, 0), (1, 0), (2, 1), (5, 4)])
def test_how_many_must_go(others: int, surplus: int) -> None:
    assert limit(2, Exceed.REVOKE_OLDEST).too_many(key(owner="alice"), others) == surplus
    if surplus:
        with pytest.raises(TooManyActiveKeys):
            limit(2, Exceed.REJECT).too_many(key(owner="alice"), others)
    else:
        assert limit(2, Exceed.REJECT).too_many(key(owner="alice"), others) == 0


def test_no_change_ends_more_keys_than_one_commit_may() -> None:
    assert limit(1, Exceed.REVOKE_OLDEST).too_many(key(owner="alice"), MAX_REPLACED) == MAX_REPLACED
    with pytest.raises(TooManyActiveKeys):
        limit(1, Exceed.REVOKE_OLDEST).too_many(key(owner="alice"), MAX_REPLACED + 1)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"owner": "alice"}, True),
        ({"owner": "alice", "not_before": NOW + 1}, True),
        ({"owner": "alice", "expires_at": NOW + 1}, True),
        ({"owner": "alice", "expires_at": NOW}, False),
        ({"owner": "alice", "enabled": False}, False),
        ({"owner": "alice", "revoked_at": NOW}, False),
        ({"owner": "alice", "deleted_at": NOW}, False),
        ({}, False),
    ],
    ids=str,
)
def test_which_keys_take_a_place(changes: dict[str, Any], counts: bool) -> None:
    assert limit(1, Exceed.REJECT).counts(key(**changes)) == counts


# --- what is unwise ---------------------------------------------------------------------------------------------------

SAYS_NOTHING = (
    "key1", "test", "my key", "asdf",  # FactoryThread's poor names
    "Key 1", "my-key-2", "MYKEY", "newKey", "api_key", "test-key (2)", "New API Key", "foo", "foobar42", "temp",
    "Untitled",
    "42", "2026-03-31", "---", "🔑", "x", "abc", "ab1", "qwerty", "QWERTZ123", "asdfasdf", "zxcv", "jkl jkl", "poiuy",
    "aaaa", "xxxxxxxx", "z z z z", "abcdef", "test asdf", "example token", "a key", "default", "ERP",
)  # fmt: skip
SAYS_SOMETHING = (
    "erp-order-sync-production", "partner-acme-integration", "mobile-app-v2-access", "internal-reporting-tool",
    "Production Integration", "Partner Access", "Development Testing", "ServiceNow Integration Key", "ServiceNow",
    "test key for acme", "CI deploy", "sap key", "GitHub Actions", "newsletter", "apiary", "Testament", "keyboard shop",
    "Ключ для бухгалтерии", "生产集成", "weiter", "power", "property import", "Zapier", "mobile",
)  # fmt: skip


@pytest.mark.parametrize("name", SAYS_NOTHING)
def test_a_name_that_says_nothing(name: str) -> None:
    assert says_nothing(name)


@pytest.mark.parametrize("name", SAYS_SOMETHING)
def test_a_name_that_says_something(name: str) -> None:
    assert not says_nothing(name)


def test_a_name_of_any_length_is_read_in_no_time() -> None:
    assert says_nothing("test" * 50)
    assert not says_nothing("test" * 49 + "y")


@pytest.mark.parametrize(
    ("rails", "changes", "found"),
    [
        (Rails(), {}, (Unwise.NO_EXPIRY,)),
        (Rails(), {"environment": "test"}, ()),
        (Rails(), {"expires_at": NOW + DAY}, ()),
        (Rails(expiry=Need.FORBIDDEN), {}, ()),
        (Rails(), {"name": "asdf"}, (Unwise.NO_EXPIRY, Unwise.NAME_SAYS_NOTHING)),
    ],
)
def test_what_is_unwise(rails: Rails, changes: dict[str, Any], found: tuple[Unwise, ...]) -> None:
    assert unwise(rails, key(**changes), "live") == found


# --- the file ---------------------------------------------------------------------------------------------------------

FILE = """
keyspace: shop
prefix: shop
environments: [live, test]
ceilings: [list, owner]
inherit: true
credentials: [{header: X-Key}]
types: {flows: [get]}
roles: {read: {rules: [{actions: [flows:get]}]}}
keys:
"""


def rails_of(*lines: str) -> Rails:
    return load_keyspace(FILE + "".join(f"  {line}\n" for line in lines)).rails


def test_a_file_that_says_everything() -> None:
    assert rails_of(
        "owner: required",
        "made_by: [owner]",
        "ended_by: [administrator]",
        'name: {pattern: "*-live"}',
        "types: [production, ci]",
        "default_type: {live: production}",
        "scopes: {min: 1, max: 2, environments: {test: [read]}}",
        "expiry: {need: required, default: 90d, maximum: 1y, allowed: [12h, 90d, 1y], custom: false}",
        "active_per_owner: {maximum: 3, on_exceed: revoke_oldest}",
        "rotation: {every: 90d, types: {ci: 30d}, overlap: false}",
        'api_version: "2026-02-01"',
    ) == Rails(
        owner=Need.REQUIRED,
        made_by=frozenset({Hand.OWNER}),
        ended_by=frozenset({Hand.ADMINISTRATOR}),
        name_pattern="*-live",
        types=("production", "ci"),
        default_types={"live": "production"},
        min_scopes=1,
        max_scopes=2,
        scopes_by_environment={"test": frozenset({"read"})},
        expiry=Need.REQUIRED,
        default_lifetime=90 * DAY,
        max_lifetime=YEAR,
        lifetimes=frozenset({DAY // 2, 90 * DAY, YEAR}),
        custom_expiry=False,
        max_active_per_owner=3,
        on_exceed=Exceed.REVOKE_OLDEST,
        rotate_every=90 * DAY,
        rotate_every_by_type={"ci": 30 * DAY},
        overlap=False,
        api_version="2026-02-01",
    )


def test_a_file_that_says_nothing() -> None:
    assert rails_of("owner: optional") == Rails()


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("owners: required", "keys.owners"),
        ("scopes: {min: 2, max: 1}", "keys.scopes.max"),
        ("scopes: {environments: {dev: [read]}}", "keys.scopes.environments.dev"),
        ("scopes: {environments: {test: [write]}}", "keys.scopes.environments.test"),
        ("expiry: {default: 90}", "keys.expiry.default"),
        ("expiry: {default: 0d}", "keys.expiry.default"),
        ("expiry: {default: 101y}", "keys.expiry.default"),
        ("expiry: {default: 90d, maximum: 30d}", "keys.expiry.default"),
        ("expiry: {default: 91d, allowed: [90d]}", "keys.expiry.default"),
        ("expiry: {maximum: 30d, allowed: [90d]}", "keys.expiry.allowed"),
        ("expiry: {allowed: [90 days]}", "keys.expiry.allowed[0]"),
        ("expiry: {allowed: []}", "keys.expiry.allowed"),
        ("expiry: {need: forbidden, default: 90d}", "keys.expiry.default"),
        ("active_per_owner: {maximum: 0}", "keys.active_per_owner.maximum"),
        ("active_per_owner: {maximum: 1, on_exceed: revoke}", "keys.active_per_owner.on_exceed"),
        ("made_by: []", "keys.made_by"),
        ("types: [a, a]", "keys.types[1]"),
        ("default_type: {dev: ci}", "keys.default_type.dev"),
        ("default_type: {live: '?'}", "keys.default_type.live"),
        ("rotation: {types: {ci: soon}}", "keys.rotation.types.ci"),
        ("api_version: 2026 02", "keys.api_version"),
        ("owner: none", "ceilings"),
    ],
)
def test_a_file_that_makes_no_sense(line: str, place: str) -> None:
    with pytest.raises(KeyspaceInvalid) as refused:
        rails_of(line)
    assert refused.value.field == place
    assert refused.value.line > 0


@pytest.mark.parametrize("line", ["default_type: {live: ci}", "rotation: {types: {ci: 30d}}"])
def test_a_type_that_the_file_does_not_list(line: str) -> None:
    with pytest.raises(KeyspaceInvalid):
        rails_of("types: [production]", line)
