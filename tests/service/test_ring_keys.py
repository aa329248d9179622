"""Signing and recovery keys change in two steps, and nothing that exists is lost."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from doorward_server.app import opened
from doorward_server.config import Config, load
from doorward_server.core.keyspace import compile_keyspace
from doorward_server.core.model import Ceiling, Key, Sealed
from doorward_server.service.catalog import OPERATOR
from doorward_server.service.mint import Mint
from doorward_server.service.ring_keys import Part, RingKeys
from doorward_server.service.rotation import RotationRefused
from doorward_server.store import Store
from tests.fakes import FakeClock

JWTS = compile_keyspace(
    {
        "keyspace": "jwts",
        "format": "jwt",
        "recoverable": True,
        "credentials": [{"header": "x-auth"}],
        "types": {"doors": ["open"]},
        "roles": {"opener": {"rules": [{"actions": ["doors:open"]}]}},
    }
)


@pytest.fixture
def config(store_url: str, tmp_path: Path) -> Config:
    return load({"DOORWARD_STORE": store_url, "DOORWARD_STATE_DIR": str(tmp_path)})


@contextmanager
def host(config: Config, clock: FakeClock) -> Iterator[tuple[Store, Mint]]:
    """A start of the server: it has the file as it is now."""
    with opened(config, clock, secrets.token_bytes) as (store, keyring, _):
        yield store, Mint(keyring, secrets.token_bytes, 4)


def change(config: Config, clock: FakeClock, part: Part, step: Callable[[RingKeys], None]) -> None:
    with opened(config, clock, secrets.token_bytes) as (store, _, _):
        step(RingKeys(store, config.peppers, part, clock, secrets.token_bytes, lambda _: None))


def key(clock: FakeClock) -> Key:
    return Key(
        OPERATOR, "key_1", "jwts", None, "a", "", "live", "", True, Ceiling.LIST, ("opener",), (), (), {}, None, None,
        clock(), clock(), (),
    )  # fmt: skip


def kids(mint: Mint) -> list[str]:
    return [each["kid"] for each in json.loads(mint.json_web_key_set(JWTS))["keys"]]


def test_a_signing_key_is_published_before_it_signs_and_after_it_did(config: Config, clock: FakeClock) -> None:
    with host(config, clock) as (_, mint):
        _, old = mint.secret(JWTS, key(clock), clock())
        assert kids(mint) == ["jwts-1"]
    change(config, clock, Part.SIGNING, RingKeys.add)
    change(config, clock, Part.SIGNING, RingKeys.add)  # again: it waits already
    with host(config, clock) as (_, mint):
        assert kids(mint) == ["jwts-1", "jwts-2"]
        assert jwt.get_unverified_header(mint.secret(JWTS, key(clock), clock())[1].reveal())["kid"] == "jwts-1"
    change(config, clock, Part.SIGNING, lambda keys: keys.activate(2))
    with host(config, clock) as (store, mint):
        _, new = mint.secret(JWTS, key(clock), clock())
        published = jwt.PyJWKSet.from_dict(json.loads(mint.json_web_key_set(JWTS)))
        for text, kid in ((old, "jwts-1"), (new, "jwts-2")):
            assert jwt.get_unverified_header(text.reveal())["kid"] == kid
            options: Any = {"verify_iat": False}  # the fake clock is not today's
            decoded = jwt.decode(text.reveal(), published[kid], algorithms=["EdDSA"], options=options)
            assert decoded["jti"] == "key_1"
        events = [stored.event for stored in store.list_events(OPERATOR, 0, 100)]
        assert [(e.action, e.target) for e in events if e.target_type == "signing"] == [
            ("signing:add", "2"),
            ("signing:activate", "2"),
        ]


def test_texts_sealed_with_an_older_recovery_key_are_still_revealed(config: Config, clock: FakeClock) -> None:
    sealed: list[tuple[str, Sealed, Any]] = []

    def seal(mint: Mint) -> None:
        secret, text = mint.secret(JWTS, key(clock), clock())
        assert secret.sealed is not None
        sealed.append((secret.id, secret.sealed, text))

    with host(config, clock) as (_, mint):
        seal(mint)
    change(config, clock, Part.RECOVERY, RingKeys.add)
    change(config, clock, Part.RECOVERY, lambda keys: keys.activate(2))
    with host(config, clock) as (_, mint):
        seal(mint)
        assert [it.version for _, it, _ in sealed] == [1, 2]
        for id, it, text in sealed:
            assert mint.opened(key(clock), id, it).reveal() == text.reveal()


@pytest.mark.parametrize("part", list(Part))
def test_a_version_that_this_host_lacks_is_not_activated(config: Config, clock: FakeClock, part: Part) -> None:
    with host(config, clock):
        before = config.peppers.read_text()
    with pytest.raises(RotationRefused, match="no version 2"):
        change(config, clock, part, lambda keys: keys.activate(2))
    assert config.peppers.read_text() == before
    assert config.peppers.stat().st_mode & 0o777 == 0o600
