"""The formats of key texts: what is recognized, and by what it is found."""

from __future__ import annotations

import base64
import json
import uuid
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward_server.core.errors import KeyspaceInvalid
from doorward_server.core.formats import (
    ALPHABETS,
    MAX_TEXT,
    Format,
    Legacy,
    Presented,
    belongs,
    compile_legacy,
    lookup_of,
    lookup_of_digest,
    lookup_of_part,
    mint_uuid,
    present,
)
from doorward_server.core.keytext import ENTROPY_BYTES, LOOKUP_LENGTH, mint

KEY = bytes(range(32))
OLD = Legacy("old", "sk_", "hex", 32, 40, 96, 8)
WHOLE = Legacy("whole", "", "base62", 24, 24, 140, 0)


def _jwt(header: dict[str, str], claims: dict[str, str], signature: bytes = b"s" * 32) -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


@given(st.binary(min_size=16, max_size=16))
def test_a_minted_uuid_is_a_lower_case_version_4_uuid_of_its_entropy(entropy: bytes) -> None:
    """122 bits of the entropy are in the text, at their places; version and variant are fixed."""
    text = mint_uuid(entropy).reveal()
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
    free = (1 << 128) - 1 & ~(0xF << 76) & ~(0x3 << 62)
    assert parsed.int & free == int.from_bytes(entropy, "big") & free


def test_minting_a_uuid_wants_exactly_16_bytes() -> None:
    """Fewer bytes would be fewer random bits, and nobody would notice."""
    for size in (0, 15, 17):
        with pytest.raises(ValueError, match="16 bytes"):
            mint_uuid(bytes(size))


def test_each_format_recognizes_its_own_texts_and_no_other() -> None:
    """A UUID is nothing in an opaque keyspace, and so on."""
    texts = {
        Format.OPAQUE: mint("aiia_key", "live", bytes(ENTROPY_BYTES)).secret.reveal(),
        Format.UUID: str(uuid.UUID(int=5, version=4)),
        Format.JWT: _jwt({"alg": "EdDSA"}, {"jti": "key_1"}),
    }
    for own in Format:
        for kind, text in texts.items():
            found = present(text, own, "aiia_key", (), KEY)
            assert (found is not None) == (own is kind), (own, kind)


def test_an_opaque_text_is_found_by_its_public_part_and_others_by_a_keyed_hash() -> None:
    """Lookups of different kinds cannot meet: each begins in its own way."""
    text = mint("aiia_key", "live", bytes(ENTROPY_BYTES)).secret.reveal()
    opaque = present(text, Format.OPAQUE, "aiia_key", (), KEY)
    assert opaque is not None
    assert opaque.lookup == text[len("aiia_key_live_") :][:LOOKUP_LENGTH]
    assert lookup_of(KEY, text).startswith("=")
    assert lookup_of_part("abc").startswith("~")
    assert opaque.lookup.isalnum()


@given(st.text(max_size=60), st.text(max_size=60))
def test_whole_text_lookups_tell_texts_apart_and_need_the_key(one: str, other: str) -> None:
    """The same text is found by the same lookup; another text, or another key, gives another one."""
    assert (lookup_of(KEY, one) == lookup_of(KEY, other)) == (one == other)
    assert lookup_of(KEY, one) != lookup_of(bytes(32), one)


def test_a_sha256_that_was_imported_finds_the_text_that_it_was_made_of() -> None:
    """The lookup is made from the SHA-256, so that a hash alone suffices to import a key."""
    text = "a" * 24
    found = present(text, Format.OPAQUE, "x", (WHOLE,), KEY)
    assert found is not None
    assert found.lookup == lookup_of_digest(KEY, sha256(text.encode()).digest())


def test_a_legacy_text_is_found_by_its_leading_characters_where_the_format_says_so() -> None:
    """For bcrypt hashes, which cannot find themselves."""
    text = "sk_0123456789abcdef0123456789abcdef"
    found = present(text, Format.OPAQUE, "x", (OLD,), KEY)
    assert isinstance(found, Presented)
    assert found.lookup == lookup_of_part("01234567")
    assert not found.sound
    whole = present("a" * 24, Format.OPAQUE, "x", (WHOLE,), KEY)
    assert isinstance(whole, Presented)
    assert (whole.lookup, whole.sound) == (lookup_of(KEY, "a" * 24), True)


@pytest.mark.parametrize(
    "text",
    [
        "sk_0123456789abcdef0123456789abcde",  # one too short
        "sk_" + "0" * 41,
        "SK_0123456789abcdef0123456789abcdef",
        "sk_0123456789ABCDEF0123456789abcdef",
        " sk_0123456789abcdef0123456789abcdef",
        "sk_0123456789abcdef0123456789abcdef\n",
        "sk_0123456789abcdef0123456789abcde\u0660",
        "",
    ],
)
def test_a_text_that_is_nearly_of_a_legacy_format_is_none(text: str) -> None:
    """Nothing is trimmed, folded or normalised."""
    assert present(text, Format.OPAQUE, "x", (OLD,), KEY) is None


def test_a_text_beyond_the_longest_is_none_whatever_it_says() -> None:
    """What is looked at is bounded, also for formats without a length of their own."""
    longest = Legacy("print", "", "print", 1, MAX_TEXT, 0, 0)
    assert present("x" * MAX_TEXT, Format.UUID, "", (longest,), KEY) is not None
    assert present("x" * (MAX_TEXT + 1), Format.UUID, "", (longest,), KEY) is None


@pytest.mark.parametrize(
    "text",
    ["", "a.b", "a.b.c.d", "a..c", ".b.c", "a.b.", "a.b.c=", "a.b.c\n", " a.b.c", "a.b.ç", "a" * 1025 + ".b.c"],
)
def test_what_is_not_three_base64url_parts_is_no_jwt(text: str) -> None:
    """Refused by shape alone; no parser is reached."""
    assert present(text, Format.JWT, "", (), KEY) is None


def test_a_jwt_is_never_parsed_so_a_changed_header_is_only_another_text() -> None:
    """`alg: none`, another algorithm or another signature: each is found by its own lookup, which nobody stored."""
    good = _jwt({"alg": "EdDSA"}, {"jti": "key_1"})
    others = [
        _jwt({"alg": "none"}, {"jti": "key_1"}),
        _jwt({"alg": "HS256"}, {"jti": "key_1"}),
        _jwt({"alg": "EdDSA"}, {"jti": "key_1"}, b"t" * 32),
    ]
    lookups = [found.lookup for text in (good, *others) if (found := present(text, Format.JWT, "", (), KEY))]
    assert len(set(lookups)) == len(others) + 1


def test_texts_of_others_do_not_belong_where_a_prefix_tells_them_apart() -> None:
    """Step 1: a text of another prefix is no credential of this keyspace; without prefixes, everything may be one."""
    assert belongs("aiia_key_live_x", Format.OPAQUE, "aiia_key", ())
    assert not belongs("ft_live_x", Format.OPAQUE, "aiia_key", ())
    assert belongs("sk_anything", Format.OPAQUE, "aiia_key", (OLD,))
    assert not belongs("a" * 23, Format.OPAQUE, "aiia_key", (WHOLE,))
    assert belongs("a" * 24, Format.OPAQUE, "aiia_key", (WHOLE,))
    assert belongs("anything", Format.UUID, "", ())


@given(st.sampled_from(sorted(ALPHABETS)), st.integers(1, 60))
def test_capacity_is_never_more_than_the_text_can_hold(alphabet: str, size: int) -> None:
    """What a keyspace may vouch for is bounded by what is there."""
    legacy = Legacy("x", "", alphabet, size, size, 0, 0)
    assert 2**legacy.capacity <= len(ALPHABETS[alphabet]) ** size


def _declared(name: str, **changes: object) -> dict[str, object]:
    return {"name": name, "prefix": "sk_", "alphabet": "hex", "length": 32, "entropy_bits": 90, "lookup": 8, **changes}


@pytest.mark.parametrize(
    "other",
    [
        {"lookup": 0},
        {"lookup": 4},
        {"entropy_bits": 128, "lookup": 0},
        {"prefix": "", "alphabet": "base62", "length": [33, 40]},
        {"prefix": "sk_0", "length": 31},
        {"alphabet": "base62", "lookup": 0},
    ],
)
def test_formats_that_would_find_one_text_in_two_ways_are_refused(other: dict[str, object]) -> None:
    """Else an import says CREATED, and the key is never found again."""
    with pytest.raises(KeyspaceInvalid, match="tell them apart") as caught:
        compile_legacy([_declared("a"), _declared("b", **other)])
    assert caught.value.field == "legacy[1]"


@pytest.mark.parametrize(
    "other",
    [{"name": "same"}, {"prefix": "pk_", "lookup": 0}, {"length": 33, "lookup": 0}, {"length": [33, 40], "lookup": 4}],
)
def test_formats_that_no_text_shares_or_that_find_it_alike_may_stand_together(other: dict[str, object]) -> None:
    assert len(compile_legacy([_declared("a"), {**_declared("b"), **other}])) == 2
