"""ReportLeak: what was found where it should not be."""

from __future__ import annotations

from doorward.calls import Call
from doorward.calls.values import effect, words
from doorward.leaks import LeakOutcome, ReportedLeak
from doorward.secret import Secret, reveal
from doorward.v1 import keys_pb2 as pb

OUTCOMES = words(LeakOutcome, pb.LeakOutcome, "LEAK_OUTCOME_")


def report_leak(
    key: str | Secret, *, keyspace: str, found_in: str = "", no_wait: bool = False, timeout: float | None = None
) -> Call[pb.ReportLeakResponse, ReportedLeak]:
    """Tell that the text of a key was found; what becomes of it is what its keyspace says.

    `found_in` says where, in at most 500 characters, without the text itself: the audit log keeps it.
    """
    return Call(
        pb.ReportLeakRequest(key=reveal(key), keyspace=keyspace, found_in=found_in, no_wait=no_wait),
        pb.ReportLeakResponse,
        lambda answer: ReportedLeak(
            outcome=OUTCOMES.get(answer.outcome, LeakOutcome.UNKNOWN),
            key_id=answer.key_id,
            organization=answer.organization,
            **effect(answer),
        ),
        timeout,
    )
