"""What a client of Invicti's API sends, and what it is answered, as its document prints it."""

from __future__ import annotations

import json
from typing import Any

from doorward import Decision, HttpRequest, IssuedKey
from tests.conformance.products import text_of

UNAUTHORIZED = '{"error": "Unauthorized", "message": "Invalid or missing authentication token"}'
FORBIDDEN = '{"error": "Forbidden", "message": "Insufficient permissions for this operation"}'


def x_auth(key: IssuedKey | str) -> HttpRequest:
    return HttpRequest(headers={"X-Auth": text_of(key), "Content-Type": "application/json"})


def unauthorized(decision: Decision) -> bool:
    """Whether it is a 401 with the printed body."""
    return _sent(decision) == (401, json.loads(UNAUTHORIZED), "application/json") and not decision


def forbidden(decision: Decision) -> bool:
    """Whether it is a 403 with the printed body."""
    return _sent(decision) == (403, json.loads(FORBIDDEN), "application/json") and not decision


def _sent(decision: Decision) -> tuple[int, Any, str]:
    assert decision.http is not None
    kind = dict(decision.http.headers).get("Content-Type", "")
    return decision.http.status, json.loads(decision.http.body or "null"), kind
