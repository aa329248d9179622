"""What to take for an answer while no server can be asked, where a caller has said so for the call."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import Counter, OrderedDict

from doorward.calls.authz import OnUnavailable
from doorward.decision import Decision, Reason
from doorward.errors import CallFailed, DeadlineExceeded, Overloaded, Unavailable
from doorward.v1 import authz_pb2 as pb

MOST_KEYSPACES = 1000
"""Of which it is remembered whether they permit consent without an answer."""
_log = logging.getLogger("doorward")


class Outage:
    """Remembers which keyspaces permit consent without an answer, and counts what was assumed. For any thread."""

    def __init__(self) -> None:
        self._permits: OrderedDict[str, bool] = OrderedDict()
        self._assumed: Counter[str] = Counter()
        self.unlock()
        _OUTAGES.add(self)

    def unlock(self) -> None:
        """Have a lock that nobody holds: at first, and in a forked child, where no thread is left that could let go."""
        self._lock = threading.Lock()

    def heard(self, request: pb.AuthorizeRequest, answer: pb.AuthorizeResponse) -> None:
        """Take note of what an answer says of its keyspace: the last word counts."""
        if self._permits.get(request.keyspace) is not answer.fail_open:
            with self._lock:
                self._permits[request.keyspace] = answer.fail_open
                if len(self._permits) > MOST_KEYSPACES:
                    self._permits.popitem(last=False)

    def assume(self, request: pb.AuthorizeRequest, failed: CallFailed, wanted: OnUnavailable) -> Decision | None:
        """Return what to take for an answer after *failed*; None: nothing, *failed* is to be raised.

        Only if no server answered. A server that answers that it is UNAVAILABLE counts as none; one that has too much
        to do does not where consent is wanted.
        """
        if wanted == "raise" or not isinstance(failed, Unavailable | DeadlineExceeded):
            return None
        allowed = wanted == "allow"
        if allowed and isinstance(failed, Overloaded):
            return None  # a server did answer, and whoever is asked about may have brought that about
        if allowed and not self._permits.get(request.keyspace, False):
            _log.error("no server answers; keyspace %r does not permit consent without an answer", request.keyspace)
            return None
        with self._lock:
            self._assumed[wanted] += 1
        _log.warning("no server answers about %s; assumed: %s", request.action, wanted)
        return Decision(
            allowed=allowed,
            reason=Reason.UNKNOWN,
            message="Authorization is not available.",
            identity=None,
            rule=None,
            missing_permissions=(),
            revision=0,
            error=failed,
        )

    def assumed(self) -> dict[str, int]:
        """Return how many answers were assumed, by what they were: "deny", "allow"."""
        with self._lock:
            return dict(self._assumed)


_OUTAGES: weakref.WeakSet[Outage] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for outage in list(_OUTAGES):
        outage.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
