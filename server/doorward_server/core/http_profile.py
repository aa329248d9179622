"""What an HTTP service answers for each reason, as a keyspace's `http:` says.

    http:
      unauthenticated:                # a group: allowed, denied, unauthenticated, unauthorized, limited
        status: 401
        headers: {WWW-Authenticate: 'Bearer realm="fegura"'}
        body: {success: false, error: {code: UNAUTHORIZED, message: "{message}"}}
      RESOURCE_NOT_GRANTED:           # one reason
        status: 404
        body: "Nothing here."

A reason takes each of `status`, `headers` and `body` from its own entry, else from its group's, else from `denied`,
which is about unauthenticated and unauthorized, else from the defaults: 200, 401, 403, 429, and a body as RFC 9457 has
it. A body is text and sent as it is, or any other value and sent as JSON. `{reason}`, `{message}` and `{missing}` (the
permissions that would have been needed, separated by commas) are filled in, in bodies; in headers only `{reason}` and
`{missing}`. All other braces stay. A 401 gets a WWW-Authenticate that tells where keys belong, as RFC 9110 demands,
unless one is given. A body gets a Content-Type.

Everything that does not change from answer to answer is made here, once: an answer is a look-up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from .errors import KeyspaceInvalid
from .reasons import TOO_MUCH, UNAUTHENTICATED, Reason
from .words import HEADER, Document

MAX_BODY = 8 * 1024
"""Bytes: it goes out with every denial."""

_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,998}[\x21-\x7e])?", re.ASCII)
_FRAMING = frozenset({"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
"""How a message is sent is the HTTP server's to say."""
_FILLED = ("{message}", "{missing}")
_PROBLEM = {"type": "about:blank", "title": "{title}", "status": 0, "detail": "{message}", "reason": "{reason}"}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A status, headers and a body to send; the body is empty where the service answers with its own."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""


@dataclass(frozen=True, slots=True)
class HttpProfile:
    """The answer for every reason."""

    answers: Mapping[str, HttpAnswer]
    unfilled: frozenset[str] = frozenset()
    """Reasons whose answer still has placeholders."""

    def answer(self, reason: str, message: str, missing: Sequence[str] = ()) -> HttpAnswer:
        """Return what to send for *reason*, with its *message* and the *missing* permissions filled in."""
        answer = self.answers[reason]
        if reason not in self.unfilled:
            return answer
        listed = ", ".join(missing)
        headers = tuple((name, value.replace("{missing}", listed)) for name, value in answer.headers)
        if _is_json(answer.headers):
            message, listed = _escaped(message), _escaped(listed)
        # One after the other would fill in a placeholder that stands in a message.
        parts = re.split(r"(\{message\}|\{missing\})", answer.body)
        filled = {"{message}": message, "{missing}": listed}
        return HttpAnswer(answer.status, headers, "".join(filled.get(part, part) for part in parts))


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one entry of `http:` says; None: nothing about that."""

    status: int | None = None
    headers: Mapping[str, str] | None = None
    body: Any = None
    says_body: bool = False


_SILENT = _Entry()


@dataclass(frozen=True, slots=True)
class _Group:
    """Reasons that are answered alike unless the file says otherwise."""

    name: str
    status: int
    reasons: tuple[str, ...]
    denied: bool = True
    """Whether `denied` is about it. What is too much now may be right later, and is told apart."""
    statuses: range = range(400, 500)


_GROUPS = (
    _Group("allowed", 200, (Reason.ALLOWED,), False, range(200, 300)),
    _Group("unauthenticated", 401, tuple(sorted(UNAUTHENTICATED))),
    _Group("unauthorized", 403, tuple(it for it in Reason if it not in (Reason.ALLOWED, *UNAUTHENTICATED, *TOO_MUCH))),
    _Group("limited", 429, tuple(sorted(TOO_MUCH)), False),
)
WORDS = ("denied", *(group.name for group in _GROUPS), *(reason for group in _GROUPS for reason in group.reasons))
"""Everything that an entry of `http:` can be about."""


def compile_http(document: Document | None, credentials: Iterable[Document], realm: str) -> HttpProfile:
    """Compile `http:` of a keyspace file whose keys come from *credentials*. Raises KeyspaceInvalid."""
    entries = {word: _entry(f"http.{word}", word, given or {}) for word, given in (document or {}).items()}
    challenge = _challenge(credentials, realm)
    answers: dict[str, HttpAnswer] = {}
    for group in _GROUPS:
        denied = entries.get("denied", _SILENT) if group.denied else _SILENT
        for reason in group.reasons:
            layers = (entries.get(reason, _SILENT), entries.get(group.name, _SILENT), denied)
            answers[reason] = _answer(reason, group, layers, challenge)
    unfilled = {reason for reason, answer in answers.items() if _has_placeholders(answer)}
    return HttpProfile(answers, frozenset(unfilled))


def _entry(place: str, word: str, document: Document) -> _Entry:
    if word not in WORDS:
        raise KeyspaceInvalid(place, f"is neither a reason nor one of {', '.join(WORDS[:5])}")
    group = next((it for it in _GROUPS if word == it.name or word in it.reasons), _GROUPS[1])
    status, headers = document.get("status"), document.get("headers")
    if status is not None and status not in group.statuses:
        kind = "what is allowed" if group.name == "allowed" else "a denial"
        raise KeyspaceInvalid(
            f"{place}.status", f"must be {group.statuses.start} to {group.statuses.stop - 1} for {kind}"
        )
    for name, value in (headers or {}).items():
        _check_header(f"{place}.headers.{name}", name, value)
    says_body = document.get("body") is not None
    if says_body:
        _check_body(f"{place}.body", document["body"])
    return _Entry(status, headers, document.get("body"), says_body)


def _check_body(place: str, body: Any) -> None:
    try:
        size = len(_rendered(body).encode())
    except (TypeError, ValueError):  # dates, infinities, halves of surrogates
        raise KeyspaceInvalid(place, "must be what JSON can say; what looks like a date needs quotes") from None
    if size > MAX_BODY:
        raise KeyspaceInvalid(place, f"must have at most {MAX_BODY // 1024} KiB")


def _check_header(place: str, name: str, value: str) -> None:
    if not HEADER.fullmatch(name):
        raise KeyspaceInvalid(place, "is not the name of an HTTP header")
    if name.lower() in _FRAMING:
        raise KeyspaceInvalid(place, "is for the HTTP server to send, not for a keyspace")
    if not _VALUE.fullmatch(value):
        raise KeyspaceInvalid(place, "must be 1 to 1,000 visible ASCII characters")
    if "{message}" in value:
        raise KeyspaceInvalid(place, "must not hold {message}: only {reason} and {missing} are filled in here")


def _answer(reason: str, group: _Group, layers: Sequence[_Entry], challenge: str) -> HttpAnswer:
    status = next((it.status for it in layers if it.status is not None), group.status)
    headers = dict(next((it.headers for it in layers if it.headers is not None), {}))
    present = {name.lower() for name in headers}
    body, kind = _body(group, status, next((it for it in layers if it.says_body), None))
    if body and "content-type" not in present:
        headers["Content-Type"] = kind
    if status == HTTPStatus.UNAUTHORIZED and "www-authenticate" not in present:
        headers["WWW-Authenticate"] = challenge
    filled = tuple((name, value.replace("{reason}", reason)) for name, value in headers.items())
    return HttpAnswer(status, filled, body.replace("{reason}", reason))


def _body(group: _Group, status: int, entry: _Entry | None) -> tuple[str, str]:
    """Return the body, and the Content-Type that goes with it."""
    if entry is not None:
        text = isinstance(entry.body, str)
        return _rendered(entry.body), "text/plain; charset=utf-8" if text else "application/json"
    if group.name == "allowed":
        return "", ""
    return _rendered(_PROBLEM | {"title": _title(status), "status": status}), "application/problem+json"


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Denied"


def _rendered(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, allow_nan=False)


def _challenge(credentials: Iterable[Document], realm: str) -> str:
    """Return a WWW-Authenticate that tells where keys belong: the schemes, or else the header or parameter."""
    documents = list(credentials)
    schemes = [it["scheme"] for it in documents if it.get("scheme") and it["header"].lower() == "authorization"]
    if schemes:
        return ", ".join(f'{scheme} realm="{realm}"' for scheme in dict.fromkeys(schemes))
    places = [("header", it["header"]) if it.get("header") else ("query", quote(it["query"])) for it in documents]
    return ", ".join(f'ApiKey realm="{realm}", in="{where}", name="{name}"' for where, name in dict.fromkeys(places))


def _has_placeholders(answer: HttpAnswer) -> bool:
    texts = (answer.body, *(value for _, value in answer.headers))
    return any(placeholder in text for placeholder in _FILLED for text in texts)


def _is_json(headers: Iterable[tuple[str, str]]) -> bool:
    kinds = [value.partition(";")[0].strip().lower() for name, value in headers if name.lower() == "content-type"]
    return any(kind == "application/json" or kind.endswith("+json") for kind in kinds)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
