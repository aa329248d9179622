"""Proving possession: every format with every verifier, imported hashes that grow strong, floods of wrong texts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import bcrypt
import jwt
import pytest
from google.protobuf.duration_pb2 import Duration

from doorward.v1 import keys_pb2, keyspaces_pb2
from doorward_server.core.errors import StoreUnavailable
from doorward_server.core.keytext import SecretText
from doorward_server.core.records import Record
from doorward_server.core.verify import Verifier
from doorward_server.service.pool import Pool
from doorward_server.service.proving import AT_ONCE, FAILURES, WINDOW, Origin, Prover
from tests.service.door import CHEAP, Door, keyspace, row

P = ParamSpec("P")
T = TypeVar("T")

FORMATS = {
    "opaque": ("prefix: {name}",),
    "uuid": ("format: uuid",),
    "jwt-eddsa": ("format: jwt",),
    "jwt-hs256": ("format: jwt", "algorithm: HS256"),
}
LEGACY = (
    "legacy:",
    "  - {name: sound, prefix: 'sk_', alphabet: base62, length: 40, entropy_bits: 170, lookup: 10}",
    "  - {name: weak, prefix: 'pw_', alphabet: base62, length: 16, entropy_bits: 40, lookup: 6}",
    "  - {name: whole, prefix: 'wh_', alphabet: hex, length: 40, entropy_bits: 160}",
    "  - {name: pin, prefix: 'pin_', alphabet: digits, length: 8, entropy_bits: 26}",
)
SOUND, WEAK = "sk_" + "A1b2C3d4E5" * 4, "pw_" + "Zz9yX8" + "wV7uT6sR5q"
WHOLE, PIN = "wh_" + "0123456789" * 4, "pin_13572468"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def crypted(text: str, prefix: bytes = b"2b") -> str:
    return bcrypt.hashpw(text.encode(), bcrypt.gensalt(CHEAP, prefix)).decode()


def changed_everywhere(text: str) -> list[str]:
    """*text* with one character changed, at each position."""
    others = [("x" if c != "x" else "0") if c.islower() or c.isdigit() else "Q" if c != "Q" else "W" for c in text]
    return [text[:i] + other + text[i + 1 :] for i, other in enumerate(others)]


UNPROVEN = {"KEY_UNKNOWN", "CREDENTIAL_MALFORMED", "CREDENTIAL_MISSING"}


@dataclass(frozen=True)
class Living:
    """A key that a test has made or imported."""

    keyspace: str
    organization: str
    id: str
    text: str


def made(door: Door, name: str, verifier: str) -> Living:
    lines = [line.format(name="minted") for line in FORMATS[name]]
    door.apply(keyspace("minted", *lines, f"verifier: {verifier}"))
    acme = door.organization()
    answer = door.create(acme, "minted")
    assert door.kept("minted", acme, answer.key.id) == verifier
    return Living("minted", acme, answer.key.id, answer.secret)


def imported(door: Door, name: str, how: str) -> Living:
    """A key of another system: *name* is one of the formats or a legacy one, *how* what was kept of it."""
    lines = [line.format(name="taken") for line in FORMATS.get(name, FORMATS["opaque"])]
    door.apply(keyspace("taken", *lines, *LEGACY))
    acme = door.organization()
    texts = {"sound": SOUND, "weak": WEAK, "whole": WHOLE, "pin": PIN}
    lookups = {"sound": "A1b2C3d4E5", "weak": "Zz9yX8"}
    text = texts[name] if name in texts else text_of(door, name)
    proof: dict[str, Any] = {"text": text}
    if how != "text":
        slow = how == "bcrypt"
        kind = keys_pb2.IMPORTED_HASH_BCRYPT if slow else keys_pb2.IMPORTED_HASH_SHA256
        kept = crypted(text) if slow else sha256(text)
        proof = {"hash": kept, "hash_kind": kind, "lookup": lookups.get(name, "")}
    (result,) = door.take_in(acme, "taken", row(**proof)).results
    assert result.outcome == keys_pb2.IMPORT_OUTCOME_CREATED, result
    return Living("taken", acme, result.key_id, text)


def text_of(door: Door, name: str) -> str:
    """A text of a format, made by another keyspace, as by another Doorward."""
    lines = [line.format(name="taken") for line in FORMATS[name]]
    door.apply(keyspace("elsewhere", *lines))
    return door.create(door.organization("elsewhere"), "elsewhere").secret


MADE = [(name, verifier) for name in FORMATS for verifier in ("hmac-sha256", "bcrypt-sha256")]
IMPORTED = [
    *((name, "text") for name in (*FORMATS, "sound", "weak", "whole", "pin")),
    *((name, "sha256") for name in ("uuid", "jwt-eddsa", "jwt-hs256", "sound", "weak", "whole", "pin")),
    *((name, "bcrypt") for name in ("sound", "weak")),
]


@pytest.mark.parametrize(("name", "verifier"), MADE)
def test_the_life_of_a_key_that_is_made(door: Door, name: str, verifier: str) -> None:
    live(door, made(door, name, verifier), verifier)


@pytest.mark.parametrize(("name", "how"), IMPORTED)
def test_the_life_of_a_key_that_is_imported(door: Door, name: str, how: str) -> None:
    key = imported(door, name, how)
    live(door, key, "hmac-sha256")


def live(door: Door, key: Living, verifier: str) -> None:
    """Authorize, rotate, revoke, delete: at each step exactly the texts that should do prove."""
    assert door.verdict(key.keyspace, key.text) == "ALLOWED"
    for text in changed_everywhere(key.text):
        assert door.verdict(key.keyspace, text) in UNPROVEN
    door.settle()
    assert door.verdict(key.keyspace, key.text) == "ALLOWED"
    rotate = keys_pb2.RotateKeyRequest(organization=key.organization, id=key.id, grace=Duration(seconds=60))
    new = door.run(door.keys.RotateKey(rotate, door.caller())).secret
    assert new != key.text
    assert door.kept(key.keyspace, key.organization, key.id) == verifier
    assert [door.verdict(key.keyspace, text) for text in (key.text, new)] == ["ALLOWED"] * 2
    door.clock.advance(61)
    assert [door.verdict(key.keyspace, text) for text in (key.text, new)] == ["SECRET_SUPERSEDED", "ALLOWED"]
    revoke = keys_pb2.RevokeKeyRequest(organization=key.organization, id=key.id)
    door.run(door.keys.RevokeKey(revoke, door.caller()))
    assert {door.verdict(key.keyspace, text) for text in (key.text, new)} == {"KEY_REVOKED"}
    delete = keys_pb2.DeleteKeyRequest(organization=key.organization, id=key.id)
    door.run(door.keys.DeleteKey(delete, door.caller()))
    assert {door.verdict(key.keyspace, text) for text in (key.text, new)} == {"KEY_REVOKED"}
    assert door.verdict(key.keyspace, changed_everywhere(new)[-8]) in UNPROVEN
    lookups = [secret.lookup for secret in _secrets(door, key)]
    assert len(set(lookups)) == len(lookups)


def _secrets(door: Door, key: Living) -> list[Any]:
    record = door.app.store.find_key(key.organization, key.id)
    return list(record.secrets) if record else []


@pytest.mark.parametrize(("how", "before"), [("sha256", "sha256"), ("bcrypt", "bcrypt")])
def test_an_imported_hash_of_a_sound_text_is_kept_as_a_keyed_one_after_its_first_success(
    door: Door, how: str, before: str
) -> None:
    key = imported(door, "sound", how)
    door.verdict(key.keyspace, changed_everywhere(SOUND)[-1])
    door.settle()
    assert door.kept(key.keyspace, key.organization, key.id) == before
    events = door.app.store.verify_chain(key.organization).length
    assert door.verdict(key.keyspace, SOUND) == "ALLOWED"
    door.settle()
    assert door.kept(key.keyspace, key.organization, key.id) == "hmac-sha256"
    assert door.app.store.verify_chain(key.organization).length == events
    assert door.verdict(key.keyspace, SOUND) == "ALLOWED"
    assert door.verdict(key.keyspace, changed_everywhere(SOUND)[-1]) == "KEY_UNKNOWN"


@pytest.mark.parametrize("how", ["sha256", "bcrypt"])
def test_the_hash_of_a_weak_text_stays_as_it_is(door: Door, how: str) -> None:
    key = imported(door, "weak", how)
    for _ in range(2):
        assert door.verdict(key.keyspace, WEAK) == "ALLOWED"
        door.settle()
        assert door.kept(key.keyspace, key.organization, key.id) == how


# --- JWT --------------------------------------------------------------------------------------------------------------


def base64url(data: Any) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest.mark.parametrize("name", ["jwt-eddsa", "jwt-hs256"])
def test_no_jwt_but_the_one_that_was_made_proves(door: Door, name: str) -> None:
    key = made(door, name, "hmac-sha256")
    header, payload, signature = key.text.split(".")
    claims = jwt.decode(key.text, options={"verify_signature": False})
    public = jwks(door, "minted")["keys"] or [{"x": "AAAA"}]
    guesses = [
        f"{base64url({'alg': 'none', 'typ': 'JWT'})}.{payload}.",
        f"{base64url({'alg': 'none', 'typ': 'JWT'})}.{payload}.{signature}",
        jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "minted-1"}),
        jwt.encode(claims, public[0]["x"].ljust(64, "="), algorithm="HS512"),
        f"{header}.{base64url({**claims, 'roles': ['writer']})}.{signature}",
        f"{header}.{payload}.{base64url(bytes(64))}",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature}.{signature}",
        f" {key.text}",
        f"{key.text}=",
        key.text + "\n",
        "..",
        "a.b.c",
    ]
    for text in guesses:
        assert door.verdict("minted", text) in ("CREDENTIAL_MALFORMED", "KEY_UNKNOWN"), text
    assert door.verdict("minted", key.text) == "ALLOWED"


def jwks(door: Door, name: str) -> dict[str, Any]:
    request = keyspaces_pb2.GetJsonWebKeySetRequest(name=name)
    answer: dict[str, Any] = json.loads(door.run(door.keyspaces.GetJsonWebKeySet(request, door.caller())).jwks)
    return answer


def test_the_key_set_verifies_what_was_made(door: Door) -> None:
    key = made(door, "jwt-eddsa", "hmac-sha256")
    known = jwt.PyJWKSet.from_dict(jwks(door, "minted"))
    signer = known[jwt.get_unverified_header(key.text)["kid"]]
    options: Any = {"verify_iat": False}  # the clock of tests is ahead
    claims = jwt.decode(key.text, signer.key, algorithms=["EdDSA"], options=options)
    assert (claims["jti"], claims["organization"], claims["roles"]) == (key.id, key.organization, ["reader"])
    door.apply(keyspace("another", "format: jwt"))
    other = door.create(key.organization, "another").secret
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(other, signer.key, algorithms=["EdDSA"], options=options)


def test_the_key_set_of_a_shared_secret_is_empty(door: Door) -> None:
    made(door, "jwt-hs256", "hmac-sha256")
    assert jwks(door, "minted") == {"keys": []}


def test_an_imported_jwt_needs_a_signature(door: Door) -> None:
    door.apply(keyspace("taken", "format: jwt"))
    (result,) = door.take_in(door.organization(), "taken", row(text="a.b.c")).results
    assert result.reason == "INVALID_FIELD"


# --- floods of wrong texts --------------------------------------------------------------------------------------------


class CountingPool(Pool):
    """A pool that counts."""

    def __init__(self, name: str) -> None:
        super().__init__(name, threads=1, backlog=1000)
        self.runs = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.runs += 1
        return await super().run(work, *args, **kwargs)


@dataclass
class Flooded:
    """A prover with pools that count, and a key under bcrypt."""

    door: Door
    prover: Prover
    slow: CountingPool
    penalty: CountingPool
    record: Record

    def proves(self, text: str, origin: Origin = ("key_caller", "192.0.2.1")) -> bool:
        return self.door.run(self.prover.proves(SecretText(text), self.record.key, False, origin))

    @property
    def runs(self) -> tuple[int, int]:
        return self.slow.runs, self.penalty.runs


@pytest.fixture
def flooded(door: Door) -> Any:
    key = imported(door, "weak", "bcrypt")
    record = door.app.store.find_record("taken", "~Zz9yX8").record
    assert record is not None
    assert record.key.id == key.id
    slow, penalty, writes = CountingPool("slow"), CountingPool("penalty"), CountingPool("writes")
    keyring = door.keys._reveals._mint._keyring
    prover = Prover(door.app.store, keyring, slow, penalty, writes, door.clock, b"k" * 32)
    yield Flooded(door, prover, slow, penalty, record)
    for pool in (slow, penalty, writes):
        pool.close()


def test_a_success_is_remembered_and_a_failure_is_not(flooded: Flooded) -> None:
    assert flooded.proves(WEAK)
    assert flooded.runs == (1, 0)
    assert flooded.proves(WEAK)
    assert flooded.proves(WEAK, ("another", ""))
    assert flooded.runs == (1, 0)
    wrong = changed_everywhere(WEAK)[-1]
    assert not flooded.proves(wrong)
    assert not flooded.proves(wrong)
    assert flooded.runs == (3, 0)


def test_what_is_remembered_is_forgotten_with_the_hash(flooded: Flooded) -> None:
    assert flooded.proves(WEAK)
    secret = flooded.record.key.secrets[0]
    other = crypted("something else").encode()
    changed = replace(secret, verifier=replace(secret.verifier, digest=other))
    flooded.record = replace(flooded.record, key=replace(flooded.record.key, secrets=(changed,)))
    assert not flooded.proves(WEAK)
    assert flooded.runs == (2, 0)


def test_who_fails_too_often_stands_back_and_still_is_believed(flooded: Flooded) -> None:
    wrong = changed_everywhere(WEAK)
    for i in range(FAILURES):
        assert not flooded.proves(wrong[3 + i % 13])
    assert flooded.runs == (FAILURES, 0)
    assert not flooded.proves(wrong[-1])
    assert flooded.runs == (FAILURES, 1)
    assert flooded.proves(WEAK)
    assert flooded.runs == (FAILURES, 2)
    assert flooded.proves(WEAK)
    assert flooded.runs == (FAILURES, 2)
    for origin in (("key_caller", "192.0.2.2"), ("key_other", "192.0.2.1")):
        assert not flooded.proves(wrong[-1], origin)
    assert flooded.runs == (FAILURES + 2, 2)
    flooded.door.clock.now += WINDOW
    assert not flooded.proves(wrong[-1])
    assert flooded.runs == (FAILURES + 3, 2)


def test_one_origin_does_not_fill_the_pool_before_it_has_failed(flooded: Flooded) -> None:
    """What is under way counts, not only what has failed: others are proved beside it, and in time."""
    wrong = changed_everywhere(WEAK)[-1]

    async def at_once() -> None:
        proofs = [flooded.prover.proves(SecretText(wrong), flooded.record.key, False, ("flood", "")) for _ in range(50)]
        assert not any(await asyncio.gather(*proofs))

    flooded.door.run(at_once())
    assert flooded.runs == (AT_ONCE, 50 - AT_ONCE)
    assert flooded.proves(WEAK)
    assert flooded.runs == (AT_ONCE + 1, 50 - AT_ONCE)


def test_a_hash_that_needs_no_pepper_is_believed_only_of_an_imported_key(flooded: Flooded) -> None:
    """Whoever can write to the database, and has no pepper, writes a SHA-256 of a text of their own."""
    secret = flooded.record.key.secrets[0]
    planted = replace(secret, verifier=Verifier("sha256", 0, hashlib.sha256(WEAK.encode()).digest()))
    native = replace(flooded.record.key, external_id=None, secrets=(planted,))
    for key in (native, replace(native, keyspace="doorward", external_id="x")):
        flooded.record = replace(flooded.record, key=key)
        with pytest.raises(StoreUnavailable):
            flooded.proves(WEAK)
    flooded.record = replace(flooded.record, key=replace(native, external_id="x"))
    assert flooded.proves(WEAK)


def test_an_unknown_lookup_costs_no_slow_hash(flooded: Flooded) -> None:
    async def nobody() -> bool:
        return await flooded.prover.proves(SecretText(WEAK), None, False, ("key_caller", ""))

    assert not flooded.door.run(nobody())
    assert flooded.runs == (0, 0)
