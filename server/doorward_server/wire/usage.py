"""UsageService on the wire."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime

from doorward.v1 import authz_pb2
from doorward.v1 import usage_pb2 as pb
from doorward_server.core.errors import InvalidField
from doorward_server.core.model import SECOND, Instant
from doorward_server.core.reasons import Reason
from doorward_server.core.usage import Cell, CellCount, DecisionRecord, Sum
from doorward_server.service.guard import Caller
from doorward_server.service.pool import Pool
from doorward_server.service.reports import Breakdown, Group, Report, Reports, Wanted
from doorward_server.wire.convert import bounded, from_timestamp, to_timestamp
from doorward_server.wire.decided import REASONS

_GROUPS = {pb.UsageDimension.Value(f"USAGE_DIMENSION_{group.name}"): group for group in Group}
_DIMENSIONS = {group: number for number, group in _GROUPS.items()}
COLUMNS = ("hour", "organization", "keyspace", "key", "owner", "action", "resource", "reason", "outcome", "count")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet take a text for a formula."""


class UsageServicer:
    """Parses, calls `Reports`, converts; on a pool of its own, as a report of years holds up nobody who ends a key."""

    def __init__(self, reports: Reports, reporting: Pool) -> None:
        self._reports = reports
        self._run = reporting.run

    async def GetUsage(self, request: pb.GetUsageRequest, caller: Caller) -> pb.GetUsageResponse:
        groups = [_group(f"group_by[{i}]", it) for i, it in enumerate(bounded("group_by", request.group_by, 16))]
        wanted = _wanted(request.scope)
        report = await self._run(self._reports.get_usage, caller, wanted, groups, request.time_zone, request.limit)
        return _to_report(report)

    async def ExportUsage(
        self, request: pb.ExportUsageRequest, caller: Caller
    ) -> AsyncGenerator[pb.ExportUsageResponse, None]:
        document = _document(request.format)
        wanted = _wanted(request.scope)
        scope, rows = await self._run(self._reports.begin_export, caller, wanted)
        yield pb.ExportUsageResponse(part=document.head, total_rows=rows)
        last: Cell | None = None
        while page := await self._run(self._reports.export, caller, wanted, scope, last):
            yield pb.ExportUsageResponse(part=document.rows(page, first=last is None), rows=len(page))
            last = page[-1].cell
        yield pb.ExportUsageResponse(part=document.foot)

    async def ListDecisions(self, request: pb.ListDecisionsRequest, caller: Caller) -> pb.ListDecisionsResponse:
        rows, token = await self._run(
            self._reports.list_decisions, caller, _wanted(request.scope), request.page_size, request.page_token
        )
        return pb.ListDecisionsResponse(decisions=map(_to_decision, rows), next_page_token=token)


class CsvDocument:
    """RFC 4180, one header, texts that no spreadsheet runs."""

    head = ",".join(COLUMNS) + "\r\n"
    foot = ""

    @staticmethod
    def rows(page: Sequence[CellCount], first: bool) -> str:
        """Return the rows of a page."""
        text = io.StringIO()
        writer = csv.writer(text)
        for it in page:
            writer.writerow([_harmless(value) if isinstance(value, str) else value for value in _row(it)])
        return text.getvalue()


class JsonDocument:
    """One array, one object on each line."""

    head = "[\n"
    foot = "\n]\n"

    @staticmethod
    def rows(page: Sequence[CellCount], first: bool) -> str:
        """Return the rows of a page."""
        lines = [json.dumps(dict(zip(COLUMNS, _row(it), strict=True)), separators=(",", ":")) for it in page]
        return ("" if first else ",\n") + ",\n".join(lines)


def _document(kind: pb.ExportFormat.ValueType) -> type[CsvDocument] | type[JsonDocument]:
    if kind == pb.EXPORT_FORMAT_CSV:
        return CsvDocument
    if kind == pb.EXPORT_FORMAT_JSON:
        return JsonDocument
    raise InvalidField("format", "must be EXPORT_FORMAT_CSV or EXPORT_FORMAT_JSON")


def _row(it: CellCount) -> tuple[str | int, ...]:
    cell = it.cell
    outcome = "ALLOW" if cell.reason == Reason.ALLOWED else "DENY"
    who = (_hour(cell.hour), cell.organization, cell.keyspace, cell.key, cell.owner)
    return (*who, cell.action, cell.resource, cell.reason, outcome, it.count)


def _hour(at: Instant) -> str:
    return datetime.fromtimestamp(at // SECOND, UTC).isoformat().replace("+00:00", "Z")


def _reason(text: str) -> authz_pb2.Reason.ValueType:
    try:
        return REASONS[Reason(text)]
    except ValueError:  # a newer Doorward has counted it
        return authz_pb2.REASON_UNSPECIFIED


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _group(field: str, dimension: pb.UsageDimension.ValueType) -> Group:
    group = _GROUPS.get(dimension)
    if group is None:
        raise InvalidField(field, "must be a dimension")
    return group


def _wanted(scope: pb.UsageScope) -> Wanted:
    return Wanted(
        organization=scope.organization,
        keyspace=scope.keyspace,
        key=scope.key_id,
        owner=scope.owner,
        since=from_timestamp("scope.since", scope, "since"),
        until=from_timestamp("scope.until", scope, "until"),
    )


def _to_count(it: Sum) -> pb.UsageCount:
    return pb.UsageCount(allowed=it.allowed, denied=it.denied)


def _to_report(report: Report) -> pb.GetUsageResponse:
    total = report.total
    everything = total.allowed + total.denied
    return pb.GetUsageResponse(
        total=_to_count(total),
        success_rate=total.allowed / everything if everything else None,
        failure_rate=total.denied / everything if everything else None,
        breakdowns=map(_to_breakdown, report.breakdowns),
        unidentified=[
            pb.UnidentifiedUsage(
                prefix=it.prefix,
                address=it.address,
                caller=it.caller,
                reason=_reason(it.reason),
                count=it.count,
            )
            for it in report.strangers
        ],
        since=to_timestamp(report.scope.since),
        until=to_timestamp(report.scope.until),
    )


def _to_breakdown(it: Breakdown) -> pb.UsageBreakdown:
    values = [
        pb.UsageValue(
            value=_hour(int(sum_.value)) if it.group is Group.HOUR else str(sum_.value),
            count=_to_count(sum_),
            start=to_timestamp(start),
        )
        for sum_, start in zip(it.sums, it.starts, strict=True)
    ]
    return pb.UsageBreakdown(dimension=_DIMENSIONS[it.group], values=values, rest=_to_count(it.rest))


def _to_decision(it: DecisionRecord) -> pb.LoggedDecision:
    return pb.LoggedDecision(
        id=it.id,
        at=to_timestamp(it.at),
        organization=it.organization,
        keyspace=it.keyspace,
        key_id=it.key,
        owner=it.owner,
        action=it.action,
        resource=it.resource,
        decision=authz_pb2.DECISION_ALLOW if it.reason == Reason.ALLOWED else authz_pb2.DECISION_DENY,
        reason=_reason(it.reason),
        client_ip=it.client_ip,
        caller=it.caller,
    )
