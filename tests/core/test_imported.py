"""Foreign texts and hashes, read: what is accepted is what the makers' own libraries make, and nothing else."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward_server.core.errors import InvalidField
from doorward_server.core.formats import Format, Legacy, lookup_of, present
from doorward_server.core.imported import ForeignHash, HashKind, last4_of, read_hash, read_text
from doorward_server.core.keytext import SecretText, mint

KEY = bytes(32)
WHOLE = Legacy("whole", "wh_", "base62", 4, 60, 10, 0)
PART = Legacy("part", "pt_", "hex", 8, 60, 10, 6)
SALT_AND_HASH = "N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"


def sha256(text: str, lookup: str = "", last4: str = "") -> ForeignHash:
    return ForeignHash(HashKind.SHA256, SecretText(text), lookup, last4)


def bcrypt(text: str, lookup: str = "0a1b2c") -> ForeignHash:
    return ForeignHash(HashKind.BCRYPT, SecretText(text), lookup, "")


def read(foreign: ForeignHash, *legacy: Legacy, own: Format = Format.OPAQUE) -> tuple[str, str, bytes]:
    lookup, verifier = read_hash(foreign, own, legacy, KEY)
    assert (verifier.pepper, verifier.inner) == (0, ())
    return lookup, verifier.kind, verifier.digest


@given(st.from_regex(r"[0-9A-Za-z]{4,60}", fullmatch=True))
def test_a_digest_is_the_same_however_it_is_spelt_and_finds_its_text(body: str) -> None:
    text = "wh_" + body
    digest = hashlib.sha256(text.encode()).digest()
    expected = (lookup_of(KEY, text), "sha256", digest)
    padded = base64.b64encode(digest).decode()
    spellings = [
        digest.hex(),
        digest.hex().upper(),
        padded,
        padded.rstrip("="),
        base64.urlsafe_b64encode(digest).decode(),
    ]
    for spelling in spellings:
        assert read(sha256(spelling), WHOLE) == expected
    known = present(text, Format.OPAQUE, "new", (WHOLE,), KEY)
    assert known is not None
    assert known.lookup == expected[0]


@given(st.text(max_size=70) | st.text("0123456789abcdefABCDEF+/-_=", min_size=42, max_size=65))
def test_anything_else_is_no_digest(text: str) -> None:
    try:
        _, kind, digest = read(sha256(text), WHOLE)
    except InvalidField:
        return
    assert (kind, len(digest)) == ("sha256", 32)
    spelt = {base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode()}
    assert text.lower() == digest.hex() or text in spelt | {it.rstrip("=") for it in spelt}


def test_base64_with_stray_bits_is_refused() -> None:
    padded = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    stray = padded[:-2] + chr(ord(padded[-2]) + 1) + "="
    with pytest.raises(InvalidField):
        read(sha256(stray), WHOLE)


@pytest.mark.parametrize("prefix", ["$2a$10$", "$2b$04$", "$2b$16$"])
def test_bcrypt_hashes_are_kept_as_they_are(prefix: str) -> None:
    text = prefix + SALT_AND_HASH
    assert read(bcrypt(text), WHOLE, PART) == ("~0a1b2c", "bcrypt", text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "$2y$10$" + SALT_AND_HASH,
        "$2$10$" + SALT_AND_HASH,
        "$2b$03$" + SALT_AND_HASH,
        "$2b$17$" + SALT_AND_HASH,
        "$2b$1$" + SALT_AND_HASH,
        "$2b$10$" + SALT_AND_HASH + "\n",
        "$2b$10$" + SALT_AND_HASH[:-1],
        "$2b$10$" + SALT_AND_HASH[:-1] + "z",
        "$2b$10$" + SALT_AND_HASH[:21] + "z" + SALT_AND_HASH[22:],
        "$2b$٠4$" + SALT_AND_HASH,
        "",
    ],
)
def test_what_bcrypt_cannot_have_made_is_refused(text: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        read(bcrypt(text), PART)
    assert refusal.value.metadata["field"] == "hash"


def test_a_hash_needs_a_way_to_be_found() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    for foreign, legacy in (
        (bcrypt("$2b$10$" + SALT_AND_HASH, ""), (PART,)),
        (bcrypt("$2b$10$" + SALT_AND_HASH), (WHOLE,)),
        (bcrypt("$2b$10$" + SALT_AND_HASH, "0a1b2"), (PART,)),
        (bcrypt("$2b$10$" + SALT_AND_HASH, "0a1b2X"), (PART,)),
        (bcrypt("$2b$10$" + SALT_AND_HASH), ()),
        (sha256(digest), (PART,)),
        (sha256(digest), ()),
        (sha256(digest, "0a1b2"), (PART, WHOLE)),
    ):
        with pytest.raises(InvalidField) as refusal:
            read(foreign, *legacy)
        assert refusal.value.metadata["field"] == "lookup"
    assert read(sha256(digest, "0a1b2c"), PART)[0] == "~0a1b2c"
    assert read(sha256(digest), own=Format.UUID)[0].startswith("=")
    assert read(sha256(digest), own=Format.JWT)[0].startswith("=")


@given(st.binary(min_size=32, max_size=32))
def test_a_text_is_found_as_it_will_be_presented(entropy: bytes) -> None:
    text = mint("new", "live", entropy).secret
    known = read_text(text, Format.OPAQUE, "new", "live", (WHOLE,), KEY)
    assert known == present(text.reveal(), Format.OPAQUE, "new", (WHOLE,), KEY) or known.lookup
    with pytest.raises(InvalidField) as refusal:
        read_text(text, Format.OPAQUE, "new", "test", (), KEY)
    assert refusal.value.metadata["field"] == "environment"
    with pytest.raises(InvalidField) as refusal:
        read_text(text, Format.OPAQUE, "other", "live", (), KEY)
    assert refusal.value.metadata["field"] == "text"


def test_short_texts_show_nothing() -> None:
    assert last4_of(SecretText("12345678901")) == ""
    assert last4_of(SecretText("123456789012")) == "9012"
