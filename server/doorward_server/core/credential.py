"""Finding the one credential in a request (design.md section 4, step 1).

A keyspace declares where its callers put their keys; nothing is looked for anywhere else. Header names and schemes
match in any case, the credential itself byte for byte. The same text twice is one credential, two different ones are
none that could be trusted, and a text of another scheme or prefix is not ours to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from .formats import belongs
from .keytext import SecretText
from .policy import Keyspace, Source
from .reasons import Reason

Headers = Iterable[tuple[str, str]]


def find_credential(headers: Headers, query: str, keyspace: Keyspace) -> SecretText | Reason:
    """Return the credential, or CREDENTIAL_MISSING or CREDENTIAL_AMBIGUOUS.

    *query* is what follows the "?" of the URL, still percent-encoded.
    """
    received = [(name.lower(), value) for name, value in headers]
    candidates = {text for source in keyspace.sources for text in _candidates(source, received, query)}
    found = {text for text in candidates if claims_to_be_of(keyspace, text)}
    if not found:
        return Reason.CREDENTIAL_MISSING
    return SecretText(found.pop()) if len(found) == 1 else Reason.CREDENTIAL_AMBIGUOUS


def claims_to_be_of(keyspace: Keyspace, text: str) -> bool:
    """Tell whether *text* looks like a key of *keyspace*: other systems' texts are none of ours to judge."""
    return bool(text) and belongs(text, keyspace.format, keyspace.prefix, keyspace.legacy)


def begins_like(keyspace: Keyspace, text: str) -> str:
    """Return how *text* begins, if that is something that the keyspace has said itself: it tells nothing of a secret.

    "aiia_live", "aiia", the prefix of a format of imported keys, or nothing.
    """
    known = (
        {keyspace.prefix, *(f"{keyspace.prefix}_{it}" for it in keyspace.environments)} if keyspace.prefix else set()
    )
    fitting = [it for it in known if text.startswith(f"{it}_")]
    fitting += [old.prefix for old in keyspace.legacy if old.prefix and text.startswith(old.prefix)]
    return max(fitting, key=len, default="")


def _candidates(source: Source, received: list[tuple[str, str]], query: str) -> Iterator[str]:
    if source.query:
        yield from _parameters(query, source.query)
        return
    for name, value in received:
        if name != source.header:
            continue
        if not source.scheme:
            yield value
        else:
            scheme, _, text = value.partition(" ")
            if scheme.lower() == source.scheme:
                yield text


def _parameters(query: str, name: str) -> Iterator[str]:
    # Not parse_qsl: it turns bytes that are no UTF-8 into U+FFFD, and so two different texts into one.
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        encoded = "%" in key or "+" in key
        if (_decoded(key) if encoded else key) == name:
            yield _decoded(value)


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")
