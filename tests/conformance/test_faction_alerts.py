"""What Faction is told of. The sentences are in docs/systems/faction.md."""

from __future__ import annotations

from doorward import HttpRequest, Question
from tests.conformance.products import EXAMPLES, Desk, text_of


def test_use_that_is_unusual_for_a_key_is_told_of(desk: Desk) -> None:
    acme = desk.product(EXAMPLES / "faction.yaml").customer("acme")
    key = acme.key(owner=acme.person("manager"))
    presented = HttpRequest(headers={"FACTION-API-KEY": text_of(key)})
    acme.ask_all(presented, [Question("assessments:queue")])
    acme.usage()  # counted from here on
    desk.advance(7 * 86_400 + 3600)
    acme.ask_all(presented, [Question("assessments:queue")] * 100)
    (told,) = acme.until_told("unusual", 1)
    assert (told.key, told.observed) == (key.key.id, 100)
