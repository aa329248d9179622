"""What Fegura is told of. The sentences are in docs/systems/fegura.md."""

from __future__ import annotations

from doorward import HttpRequest, Question
from tests.conformance.products import EXAMPLES, Desk, text_of


def test_unusual_patterns_of_activity_are_told_of(desk: Desk) -> None:
    acme = desk.product(EXAMPLES / "fegura.yaml").customer("acme")
    key = acme.key("read")
    presented = HttpRequest(headers={"Authorization": f"Bearer {text_of(key)}"})
    acme.ask_all(presented, [Question("accounts:read")])
    acme.usage()  # counted from here on
    desk.advance(7 * 86_400 + 3600)
    acme.ask_all(presented, [Question("accounts:read")] * 99)
    assert acme.alerts("unusual") == []
    acme.ask_all(presented, [Question("accounts:read")])
    desk.advance(60)
    (told,) = acme.until_told("unusual", 1)
    assert (told.key, told.expected, told.observed) == (key.key.id, 0, 100)
