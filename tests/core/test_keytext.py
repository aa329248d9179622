"""Key texts: minted, parsed from the right, and refused if a single character is not as it was minted."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import sys
import traceback
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorward_server.core import keytext
from doorward_server.core.keytext import ALPHABET, ENTROPY_BYTES, KeyText, MalformedText, SecretText, mask, mint, parse
from tests.core import worlds

GOLDEN = json.loads((Path(__file__).parent / "golden" / "keytext.json").read_text())
ENTROPY = bytes(range(ENTROPY_BYTES))
KEY = mint("aiia_key", "live", ENTROPY)
TEXT = KEY.secret.reveal()
# All that a text is made of and its neighbours: letters of both cases, digits, underscore, what people paste along.
TYPED = [*ALPHABET, *"_-.~+/= \t\n\r\0\"'*:;,\x7f\x80éＡ１０٣\u200b\ufeff\ud800𝟎"]

entropies = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)
prefixes = st.from_regex(r"[a-z][a-z0-9]{0,8}(?:_[a-z0-9]{1,6}){0,3}", fullmatch=True)
environments = st.from_regex(r"[a-z][a-z0-9]{0,15}", fullmatch=True)


def refused(text: str) -> bool:
    """Tell whether *text* is refused, saying nothing of it."""
    try:
        parse(text)
    except MalformedText as refusal:
        return refusal.args == ("not a key text",) and refusal.__cause__ is None and refusal.__context__ is None
    return False


# --- the format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row["text"][:24])
def test_golden_texts_never_change(row: dict[str, str]) -> None:
    """Texts that somebody may hold today. A diff here is a change of format, and breaks every key there is."""
    minted = mint(row["prefix"], row["environment"], bytes.fromhex(row["entropy"]))
    for key in (minted, parse(row["text"])):
        assert key.secret.reveal() == row["text"]
        assert (key.prefix, key.environment) == (row["prefix"], row["environment"])
        assert (key.lookup, key.last4) == (row["lookup"], row["last4"])


def test_golden_texts_say_what_design_md_says() -> None:
    """`<prefix>_<environment>_<10 public id><24 secret><6 CRC32 of all before>`, worked out by hand once more."""
    for row in GOLDEN:
        head, body = row["text"][:-40], row["text"][-40:]
        assert head == f"{row['prefix']}_{row['environment']}_"
        assert row["lookup"] == body[:10]
        crc = 0xFFFFFFFF
        for byte in row["text"][:-6].encode():
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
        value = 0
        for character in body[-6:]:
            value = value * 62 + ALPHABET.index(character)
        assert value == crc ^ 0xFFFFFFFF


@worlds.examples(300)
@given(prefixes, environments, entropies)
def test_what_is_minted_parses_back(prefix: str, environment: str, entropy: bytes) -> None:
    key = mint(prefix, environment, entropy)
    back = parse(key.secret.reveal())
    assert back.secret.reveal() == key.secret.reveal()
    assert dataclasses.replace(back, secret=key.secret) == key
    assert back.last4 == key.secret.reveal()[-4:]
    assert len(key.secret.reveal()) == len(prefix) + len(environment) + 2 + keytext.BODY_LENGTH


@pytest.mark.parametrize(
    ("prefix", "environment"),
    [("a", "l"), ("aiia_key", "live"), ("aiia_key_live", "test"), ("a_0_1_2", "e9"), ("x" * 100, "y" * 16)],
)
def test_the_environment_is_the_word_before_the_body(prefix: str, environment: str) -> None:
    back = parse(mint(prefix, environment, ENTROPY).secret.reveal())
    assert (back.prefix, back.environment) == (prefix, environment)


@worlds.examples(200)
@given(st.lists(st.tuples(prefixes, environments, entropies), min_size=2, max_size=2, unique=True))
def test_no_two_texts_share_a_parse(parts: list[tuple[str, str, bytes]]) -> None:
    one, two = (mint(*part) for part in parts)
    assert one.secret.reveal() != two.secret.reveal()
    shown = [(key.prefix, key.environment, key.secret.reveal()) for key in (one, two)]
    assert shown[0] != shown[1]


def test_a_parse_and_its_text_are_one_to_one() -> None:
    """Prefixes and environments that join to the same words make texts that differ, or parse to the same parts."""
    seen: dict[str, tuple[str, str]] = {}
    for prefix, environment in (("a", "b"), ("a_b", "c"), ("a", "c"), ("a_b_c", "d"), ("a_b", "d"), ("ab", "c")):
        text = mint(prefix, environment, ENTROPY).secret.reveal()
        assert text not in seen
        seen[text] = (prefix, environment)
    for text, parts in seen.items():
        assert (parse(text).prefix, parse(text).environment) == parts


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_minting_wants_all_of_its_entropy(size: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes of entropy, got {size}"):
        mint("a", "live", bytes(size))


def test_every_bit_of_entropy_counts() -> None:
    """No bit is thrown away on the way to 34 base62 digits: 62**34 is no power of two."""
    texts = {mint("a", "live", bytes(32)).secret.reveal()}
    for bit in range(8 * ENTROPY_BYTES):
        texts.add(mint("a", "live", (1 << bit).to_bytes(32, "big")).secret.reveal())
    assert len(texts) == 8 * ENTROPY_BYTES + 1


def test_every_character_of_the_alphabet_comes_up_in_every_place() -> None:
    dice = Random(1)
    bodies = [mint("a", "l", dice.randbytes(32)).secret.reveal()[4:] for _ in range(3_000)]
    for place in range(34):
        assert {body[place] for body in bodies} == set(ALPHABET)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_every_substitution_is_refused() -> None:
    for place, was in enumerate(TEXT):
        for typed in TYPED:
            if typed != was:
                assert refused(TEXT[:place] + typed + TEXT[place + 1 :]), (place, typed)


def test_every_insertion_is_refused() -> None:
    for place in range(len(TEXT) + 1):
        for typed in TYPED:
            assert refused(TEXT[:place] + typed + TEXT[place:]), (place, typed)


def test_every_deletion_is_refused() -> None:
    for place in range(len(TEXT)):
        assert refused(TEXT[:place] + TEXT[place + 1 :]), place
        assert refused(TEXT[:place]), place
        assert refused(TEXT[place + 1 :]), place


def test_every_swap_of_neighbours_is_refused() -> None:
    for place in range(len(TEXT) - 1):
        swapped = TEXT[:place] + TEXT[place + 1] + TEXT[place] + TEXT[place + 2 :]
        assert swapped == TEXT or refused(swapped), place


def test_every_change_of_case_is_refused() -> None:
    assert refused(TEXT.upper())
    assert refused(TEXT.lower())
    assert refused(TEXT.swapcase())
    for place, was in enumerate(TEXT):
        if was.isalpha():
            assert refused(TEXT[:place] + was.swapcase() + TEXT[place + 1 :]), place


@worlds.examples(300)
@given(worlds.dice())
def test_other_texts_are_refused_too(dice: Random) -> None:
    text = mint("ft", "live", dice.randbytes(32)).secret.reveal()
    place = dice.randrange(len(text))
    changed = text[:place] + dice.choice(TYPED) + text[place + 1 :]
    assert refused(changed) or changed == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "_",
        "__",
        "\0",
        "live",
        "aiia_key_live_",
        " " + TEXT,
        TEXT + " ",
        TEXT + "\n",
        "\n" + TEXT,
        TEXT + "\0",
        "\0" + TEXT,
        "\ufeff" + TEXT,
        TEXT + "\u200b",
        TEXT + TEXT,
        f"{TEXT},{TEXT}",
        f"Bearer {TEXT}",
        f'"{TEXT}"',
        TEXT.replace("0", "\uff10"),
        TEXT.translate({ord(c): ord(c) - 0x21 + 0xFF01 for c in ALPHABET}),
        TEXT.replace("_", "\uff3f"),
        TEXT.replace("i", "\u0131"),
        TEXT.replace("k", "\u212a"),
        TEXT[:-1] + "\ud800",
        "\ud83d\ude00",
        "é" * 40,
        "a" * 200,
        "a_" * 99 + "a",
        "a_" * 100_000,
        "a" * 1_000_000,
        "_" * 1_000_000,
        TEXT + "A" * 1_000_000,
        "A" * 1_000_000 + TEXT,
        "\ud800" * 1_000_000,
    ],
    ids=lambda text: ascii(text[:16]),
)
def test_garbage_is_malformed(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    ("prefix", "environment"),
    [
        *((prefix, "live") for prefix in ("A", "9a", "_a", "a_", "a__b", "a-b", "")),
        *(("a", environment) for environment in ("LIVE", "9", "", "x" * 17, "li-ve")),
    ],
)
def test_a_right_checksum_does_not_make_up_for_a_wrong_shape(prefix: str, environment: str) -> None:
    head = f"{prefix}_{environment}_{TEXT[-40:-6]}"
    assert refused(head + keytext.checksum(head))


def test_the_longest_text_has_200_characters() -> None:
    """Beyond that not even the checksum is worked out. A keyspace's prefix must leave room for the rest."""
    longest = mint("x" * 154, "live", ENTROPY).secret.reveal()
    assert len(longest) == 200
    assert parse(longest).secret.reveal() == longest
    assert refused(mint("x" * 155, "live", ENTROPY).secret.reveal())


# --- secrets stay unseen ----------------------------------------------------------------------------------------------


def leaks(shown: object) -> bool:
    """Tell whether *shown* holds the text, or the part of it that is secret."""
    return TEXT in str(shown) or TEXT[-30:-6] in str(shown) or TEXT in repr(shown) or TEXT[-30:-6] in repr(shown)


def test_leaks_would_notice() -> None:
    assert leaks(TEXT)
    assert leaks({"a": [f"x{TEXT}"]})
    assert leaks(TEXT[-34:-4])


@pytest.mark.parametrize("value", [KEY.secret, KEY, [KEY.secret], {"key": KEY}], ids=["secret", "key", "list", "dict"])
def test_a_secret_does_not_print(value: object) -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (value, value), None)
    shown = [
        str(value),
        repr(value),
        f"{value}",
        f"{value!s} {value!r} {value!a}",
        "%s" % (value,),  # noqa: UP031
        record.getMessage(),
    ]
    shown += ["{} {!r}".format(value, value), json.dumps({"v": value}, default=str), ascii(value)]  # noqa: UP032
    for text in shown:
        assert not leaks(text), text


def test_a_secret_has_no_format_that_shows_it() -> None:
    for spec in (">100", "s", "x", "!r", "<"):
        with pytest.raises(TypeError) as refusal:
            format(KEY.secret, spec)
        assert not leaks(refusal.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_not_pickled(protocol: int) -> None:
    for value in (KEY.secret, KEY, [KEY]):
        with pytest.raises(TypeError, match="not pickled") as refusal:
            pickle.dumps(value, protocol)
        assert not leaks(refusal.value)


def test_a_secret_is_not_copied_out() -> None:
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            copied(KEY.secret)
    with pytest.raises(TypeError, match="not pickled"):
        dataclasses.asdict(KEY)
    with pytest.raises(TypeError):
        vars(KEY.secret)
    with pytest.raises(TypeError):
        json.dumps(KEY.secret)
    with pytest.raises(TypeError):
        str.join("", [KEY.secret])  # type: ignore[list-item]
    assert not leaks(dir(KEY.secret))
    assert not leaks(hash(KEY.secret))


def test_a_secret_says_nothing_when_compared() -> None:
    """Equality is identity: `==` on secrets would be a comparison that takes longer the more is right."""
    assert KEY.secret != SecretText(TEXT)
    others: tuple[object, ...] = (TEXT, None, 0)
    assert all(KEY.secret != other for other in others)
    assert parse(TEXT) != parse(TEXT)


def test_a_secret_is_in_no_traceback_with_locals() -> None:
    def inner(secret: SecretText, key: KeyText) -> None:
        held = (secret, [key])
        raise RuntimeError(f"{secret} {key} {held}")

    with pytest.raises(RuntimeError) as failure:
        inner(KEY.secret, KEY)
    shown = "".join(traceback.TracebackException.from_exception(failure.value, capture_locals=True).format())
    assert "secret = SecretText(…)" in shown
    assert not leaks(shown)


def test_a_refusal_holds_no_text() -> None:
    for text in (TEXT + "x", TEXT[:-1] + ("0" if TEXT[-1] != "0" else "1")):
        with pytest.raises(MalformedText) as refusal:
            parse(text)
        shown = "".join(traceback.format_exception(refusal.value))
        assert text not in shown
        assert TEXT not in shown
        assert text not in repr(refusal.value.args)


def test_revealing_is_the_one_way_out() -> None:
    assert KEY.secret.reveal() == TEXT
    public = [name for name in dir(KEY.secret) if not name.startswith("_")]
    assert public == ["reveal"]
    assert sys.getsizeof(KEY.secret) < 200


# --- for display ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("•••••{last4}", "•••••aB3d"),
        ("{prefix}…{last4}", "aiia_key…aB3d"),
        ("{prefix}_{environment}_…{last4}", "aiia_key_live_…aB3d"),
        ("{last4}{last4}", "aB3daB3d"),
        ("***", "***"),
        ("{other}{last4}", "{other}aB3d"),
        ("", ""),
    ],
)
def test_mask(style: str, shown: str) -> None:
    assert mask(style, "aiia_key", "live", "aB3d") == shown


def test_mask_shows_four_characters_of_the_checksum_and_none_of_the_secret() -> None:
    shown = mask("{prefix}_{environment}_…{last4}", KEY.prefix, KEY.environment, KEY.last4)
    assert shown == f"aiia_key_live_…{TEXT[-4:]}"
    secret = TEXT[-30:-6]
    assert not any(secret[i : i + 4] in shown for i in range(len(secret) - 3))
