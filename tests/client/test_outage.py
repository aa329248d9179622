"""What is taken for an answer where no server gives one: what its caller said, and consent only where permitted."""

from __future__ import annotations

import pytest

from doorward.errors import CallerForbidden, CallFailed, DeadlineExceeded, Overloaded, StoreUnavailable, Unavailable
from doorward.outage import Outage
from doorward.v1 import authz_pb2 as pb

ASKED = pb.AuthorizeRequest(keyspace="aiia", action="findings:read")
LOST = (Unavailable, StoreUnavailable, DeadlineExceeded)


def heard(fail_open: bool = True) -> Outage:
    outage = Outage()
    outage.heard(ASKED, pb.AuthorizeResponse(fail_open=fail_open))
    return outage


@pytest.mark.parametrize("kind", LOST)
def test_consent_is_assumed_where_it_was_asked_for_and_is_permitted(kind: type[CallFailed]) -> None:
    decision = heard().assume(ASKED, kind("gone"), "allow")
    assert decision is not None
    assert decision.allowed
    assert isinstance(decision.error, kind)
    assert heard(False).assume(ASKED, kind("gone"), "allow") is None
    assert Outage().assume(ASKED, kind("gone"), "allow") is None  # nobody ever said that it is
    assert heard().assume(ASKED, kind("gone"), "raise") is None


@pytest.mark.parametrize("kind", [*LOST, Overloaded])
def test_a_denial_is_assumed_whatever_the_keyspace_says(kind: type[CallFailed]) -> None:
    outage = heard(False)
    decision = outage.assume(ASKED, kind("gone"), "deny")
    assert decision is not None
    assert not decision.allowed
    assert outage.assumed() == {"deny": 1}


def test_who_overloads_a_server_does_not_get_consent_by_that() -> None:
    assert heard().assume(ASKED, Overloaded("too much"), "allow") is None


def test_a_server_that_answers_is_not_lost() -> None:
    assert heard().assume(ASKED, CallerForbidden("no"), "allow") is None
    assert heard().assume(ASKED, CallerForbidden("no"), "deny") is None
