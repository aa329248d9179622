"""What AIIA is told of. The sentences are in docs/systems/aiia.md."""

from __future__ import annotations

from tests.conformance.products import EXAMPLES, Desk

DAY = 86_400


def test_a_key_that_is_not_rotated_after_90_days_is_told_of_once(desk: Desk) -> None:
    acme = desk.product(EXAMPLES / "aiia.yaml").customer("acme")
    key = acme.key("read:findings", expires="1y")
    desk.advance(90 * DAY - 1)
    assert acme.alerts("overdue") == []
    desk.advance(601)
    (told,) = acme.until_told("overdue", 1)
    assert told.key == key.key.id
    desk.advance(30 * DAY)
    assert acme.alerts("overdue") == [told]
    acme.root.rotate_key(key.key.id, organization=acme.id)
    desk.advance(91 * DAY)
    assert len(acme.until_told("overdue", 2)) == 2
