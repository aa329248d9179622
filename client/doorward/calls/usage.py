"""UsageService: what keys were used for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from doorward.calls import Call, Feed, Pages
from doorward.calls.decided import REASONS
from doorward.calls.values import instant, instant_or_none, numbers, timestamp, words
from doorward.decision import Reason
from doorward.usage import (
    ExportFormat,
    ExportPart,
    LoggedDecision,
    UnidentifiedUsage,
    Usage,
    UsageBreakdown,
    UsageCount,
    UsageDimension,
    UsageValue,
)
from doorward.v1 import authz_pb2
from doorward.v1 import usage_pb2 as pb

DIMENSIONS = words(UsageDimension, pb.UsageDimension, "USAGE_DIMENSION_")
FORMATS = words(ExportFormat, pb.ExportFormat, "EXPORT_FORMAT_")
_DIMENSION_NUMBERS, _FORMAT_NUMBERS = numbers(DIMENSIONS), numbers(FORMATS)


def get_usage(
    *,
    organization: str = "",
    keyspace: str = "",
    key_id: str = "",
    owner: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    by: Iterable[UsageDimension | str] = (),
    time_zone: str = "",
    limit: int = 0,
    timeout: float | None = None,
) -> Call[pb.GetUsageResponse, Usage]:
    """Return sums of what a key, an owner's keys, a keyspace or a whole organization did; by default in 30 days.

    `by` says what to tell apart: by default day, action, resource, reason and address, each with up to `limit` values.
    Days begin in `time_zone`, an IANA name. A deleted key's usage stays.
    """
    chosen = [_DIMENSION_NUMBERS[UsageDimension(it)] for it in by]
    request = pb.GetUsageRequest(
        scope=_scope(organization, keyspace, key_id, owner, since, until),
        group_by=chosen,  # type: ignore[arg-type]  # an enum is an int
        time_zone=time_zone,
        limit=limit,
    )
    return Call(request, pb.GetUsageResponse, _read_usage, timeout)


def export_usage(
    *,
    format: ExportFormat | str,  # noqa: A002  # the contract's word
    organization: str = "",
    keyspace: str = "",
    key_id: str = "",
    owner: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    timeout: float | None = None,
) -> Feed[pb.ExportUsageResponse, ExportPart]:
    """Give all hourly counts as the parts of one CSV or JSON document, as they are read; by default of 30 days.

    `timeout` is for all of it; None is no end.
    """
    request = pb.ExportUsageRequest(
        scope=_scope(organization, keyspace, key_id, owner, since, until),
        format=_FORMAT_NUMBERS[ExportFormat(format)],  # type: ignore[arg-type]  # an enum is an int
    )
    return Feed(request, pb.ExportUsageResponse, _read_part, timeout)


def list_decisions(
    *,
    organization: str = "",
    keyspace: str = "",
    key_id: str = "",
    owner: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[pb.ListDecisionsResponse, LoggedDecision]:
    """List recorded decisions, the newest first, of keyspaces that record all; by default of the last 30 days."""
    scope = _scope(organization, keyspace, key_id, owner, since, until)
    return Pages(
        pb.ListDecisionsRequest(scope=scope, page_size=page_size),
        pb.ListDecisionsResponse,
        lambda answer: map(_read_decision, answer.decisions),
        timeout,
    )


def _scope(
    organization: str, keyspace: str, key_id: str, owner: str, since: datetime | None, until: datetime | None
) -> pb.UsageScope:
    return pb.UsageScope(
        organization=organization,
        keyspace=keyspace,
        key_id=key_id,
        owner=owner,
        since=timestamp("since", since),
        until=timestamp("until", until),
    )


def _read_usage(answer: pb.GetUsageResponse) -> Usage:
    return Usage(
        total=_read_count(answer.total),
        success_rate=answer.success_rate if answer.HasField("success_rate") else None,
        failure_rate=answer.failure_rate if answer.HasField("failure_rate") else None,
        by={DIMENSIONS.get(it.dimension, UsageDimension.UNKNOWN): _read_breakdown(it) for it in answer.breakdowns},
        unidentified=tuple(
            UnidentifiedUsage(it.prefix, it.address, it.caller, REASONS.get(it.reason, Reason.UNKNOWN), it.count)
            for it in answer.unidentified
        ),
        since=instant(answer.since),
        until=instant(answer.until),
    )


def _read_count(count: pb.UsageCount) -> UsageCount:
    return UsageCount(count.allowed, count.denied)


def _read_breakdown(it: pb.UsageBreakdown) -> UsageBreakdown:
    values = (UsageValue(one.value, _read_count(one.count), instant_or_none(one, "start")) for one in it.values)
    return UsageBreakdown(tuple(values), _read_count(it.rest))


def _read_part(answer: pb.ExportUsageResponse) -> ExportPart:
    return ExportPart(answer.part, answer.rows, answer.total_rows)


def _read_decision(it: pb.LoggedDecision) -> LoggedDecision:
    return LoggedDecision(
        id=it.id,
        at=instant(it.at),
        organization=it.organization,
        keyspace=it.keyspace,
        key_id=it.key_id,
        owner=it.owner,
        action=it.action,
        resource=it.resource,
        allowed=it.decision == authz_pb2.DECISION_ALLOW,
        reason=REASONS.get(it.reason, Reason.UNKNOWN),
        client_ip=it.client_ip,
        caller=it.caller,
    )
