"""Proof of possession: exactly the minted text proves, under exactly the pepper it was stored with."""

from __future__ import annotations

import ast
import hashlib
import hmac
import inspect
import traceback
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward_server.core import verify
from doorward_server.core.keytext import ALPHABET, SecretText, mint
from doorward_server.core.verify import PEPPER_BYTES, Peppers, RetiredPepper, UnknownPepper, Verifier
from tests.core import worlds

OLD, NEW = bytes(range(32)), bytes(range(100, 132))
PEPPERS = Peppers({1: OLD, 2: NEW}, active=2)
SECRET = mint("aiia_key", "live", bytes(range(32))).secret
TEXT = SECRET.reveal()


def proves(text: str, verifier: Verifier, peppers: Peppers = PEPPERS) -> bool:
    """Tell whether *text* proves."""
    return peppers.proves(SecretText(text), verifier)


def test_what_is_stored_is_what_design_md_says() -> None:
    """`hmac-sha256`: HMAC-SHA256(pepper[v], text) and v. A change here locks every key out."""
    assert PEPPER_BYTES == 32
    stored = PEPPERS.verifier(SECRET)
    assert stored == Verifier("hmac-sha256", 2, hmac.new(NEW, TEXT.encode(), hashlib.sha256).digest())


@worlds.examples(300)
@given(worlds.dice())
def test_exactly_the_minted_text_proves(dice: Random) -> None:
    text = mint("ft", "live", dice.randbytes(32)).secret.reveal()
    stored = PEPPERS.verifier(SecretText(text))
    assert proves(text, stored)
    place = dice.randrange(len(text))
    other = text[:place] + dice.choice(ALPHABET) + text[place + 1 :]
    assert proves(other, stored) is (other == text)


def test_one_changed_character_anywhere_does_not_prove() -> None:
    stored = PEPPERS.verifier(SECRET)
    for place, was in enumerate(TEXT):
        for other in (*ALPHABET, "_", "\0", " ", "é", "\ud800"):
            assert proves(TEXT[:place] + other + TEXT[place + 1 :], stored) is (other == was)
        assert not proves(TEXT[:place] + TEXT[place + 1 :], stored)
        assert not proves(TEXT[:place], stored)


@pytest.mark.parametrize(
    "text", ["", "\0", TEXT + "\0", TEXT + " ", " " + TEXT, TEXT.lower(), TEXT * 2, "\ud800", "x" * 1_000_000]
)
def test_other_texts_do_not_prove(text: str) -> None:
    assert not proves(text, PEPPERS.verifier(SECRET))


def test_one_changed_bit_of_what_is_stored_does_not_prove() -> None:
    stored = PEPPERS.verifier(SECRET)
    for bit in range(8 * len(stored.digest)):
        changed = bytearray(stored.digest)
        changed[bit // 8] ^= 1 << bit % 8
        assert not proves(TEXT, replace(stored, digest=bytes(changed))), bit


def test_a_part_of_what_is_stored_does_not_prove() -> None:
    stored = PEPPERS.verifier(SECRET)
    for size in range(len(stored.digest)):
        assert not proves(TEXT, replace(stored, digest=stored.digest[:size])), size
    assert not proves(TEXT, replace(stored, digest=stored.digest + b"\0"))


def test_the_database_alone_proves_nothing() -> None:
    """Neither the digest nor a hash without the pepper is a way in, presented or stored."""
    stored = PEPPERS.verifier(SECRET)
    assert not proves(stored.digest.hex(), stored)
    assert not proves(stored.digest.decode("latin-1"), stored)
    assert not proves(TEXT, replace(stored, digest=hashlib.sha256(TEXT.encode()).digest()))
    assert not proves(TEXT, replace(stored, digest=hmac.digest(b"", TEXT.encode(), "sha256")))


@worlds.examples(100)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_another_pepper_does_not_prove(one: bytes, two: bytes) -> None:
    stored = Peppers({1: one}, active=1).verifier(SECRET)
    assert proves(TEXT, stored, Peppers({1: two}, active=1)) is (one == two)


def test_old_versions_go_on_proving_while_new_secrets_get_the_active_one() -> None:
    before = Peppers({1: OLD}, active=1).verifier(SECRET)
    assert before.pepper == 1
    assert PEPPERS.verifier(SECRET).pepper == 2
    assert proves(TEXT, before)
    assert not proves(TEXT, replace(before, pepper=2))
    assert not proves(TEXT, replace(PEPPERS.verifier(SECRET), pepper=1))


@pytest.mark.parametrize("version", [0, 3, -1])
def test_an_unknown_version_is_an_outage_and_never_a_denial(version: int) -> None:
    stored = replace(PEPPERS.verifier(SECRET), pepper=version)
    for ask in (
        lambda: PEPPERS.proves(SECRET, stored),
        lambda: PEPPERS.canary(version),
        lambda: PEPPERS.audit_key(version),
        lambda: Peppers({1: OLD}, active=version).verifier(SECRET),
    ):
        with pytest.raises(UnknownPepper, match=str(version)) as outage:
            ask()
        assert str(version) in str(outage.value)


def test_canaries_and_audit_keys_tell_peppers_apart_and_nothing_else() -> None:
    derived = [PEPPERS.canary(1), PEPPERS.canary(2), PEPPERS.audit_key(1), PEPPERS.audit_key(2), OLD, NEW]
    assert len(set(derived)) == len(derived)
    assert Peppers({7: OLD}, active=7).canary(7) == PEPPERS.canary(1)
    assert Peppers({7: OLD}, active=7).audit_key(7) == PEPPERS.audit_key(1)


def test_nothing_secret_is_printed() -> None:
    stored = PEPPERS.verifier(SECRET)
    failure = None
    try:
        PEPPERS.proves(SECRET, replace(stored, pepper=9))
    except UnknownPepper as outage:
        failure = traceback.TracebackException.from_exception(outage, capture_locals=True)
    assert failure is not None
    for shown in (repr(PEPPERS), str(PEPPERS), repr(stored), str(stored), f"{PEPPERS} {stored}", *failure.format()):
        for hidden in (OLD, NEW, stored.digest):
            assert repr(hidden)[2:-1] not in shown
            assert hidden.hex() not in shown
        assert TEXT not in shown


def test_a_retired_pepper_proves_nothing_by_itself_but_below_another() -> None:
    stored = Peppers({1: OLD}, active=1).verifier(SECRET)
    retired = replace(PEPPERS, retired=frozenset({1}))
    for text in (TEXT, TEXT[:-1]):
        with pytest.raises(RetiredPepper):
            proves(text, stored, retired)
    wrapped = PEPPERS.rewrapped(stored)
    assert wrapped == Verifier("hmac-sha256", 2, hmac.new(NEW, stored.digest, hashlib.sha256).digest(), (1,))
    assert proves(TEXT, wrapped, retired)
    assert not proves(TEXT[:-1], wrapped, retired)


def test_digests_are_compared_in_constant_time() -> None:
    """Read in the source: `proves` ends in compare_digest; only kind and version are compared in another way."""
    tree = ast.parse(inspect.getsource(verify))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and ast.unparse(node.left) not in ("verifier.kind", "verifier.pepper"):
            assert not any(isinstance(how, ast.Eq | ast.NotEq | ast.In) for how in node.ops), ast.unparse(node)
        assert not (isinstance(node, ast.Attribute) and node.attr in ("startswith", "endswith", "find")), node.lineno
    (function,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "proves")
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
    assert returns
    for statement in returns:
        assert isinstance(statement.value, ast.Call)
        assert ast.unparse(statement.value.func) == "hmac.compare_digest"
