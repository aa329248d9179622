"""KeyspaceService on the wire."""

from __future__ import annotations

from doorward.v1 import keyspaces_pb2 as pb
from doorward_server.service.guard import Caller
from doorward_server.service.keyspace_tests import CaseResult
from doorward_server.service.keyspaces import Keyspaces
from doorward_server.service.pool import Pool
from doorward_server.wire.convert import to_keyspace, to_propagation


class KeyspaceServicer:
    """Parses, calls `Keyspaces` on the management pool, converts."""

    def __init__(self, keyspaces: Keyspaces, management: Pool) -> None:
        self._keyspaces = keyspaces
        self._run = management.run

    async def ApplyKeyspace(self, request: pb.ApplyKeyspaceRequest, caller: Caller) -> pb.ApplyKeyspaceResponse:
        applied = await self._run(
            self._keyspaces.apply,
            caller,
            request.source,
            request.etag,
            dry_run=request.dry_run,
            force=request.force,
        )
        return pb.ApplyKeyspaceResponse(
            keyspace=to_keyspace(applied.stored, applied.keyspace, source=True),
            outcome=pb.ApplyOutcome.Value(f"APPLY_OUTCOME_{applied.outcome}"),
            diff=applied.diff,
            revision=applied.revision,
            changes=applied.changes,
            stranded=[
                pb.Stranding(field=s.field, why=s.why, keys=s.keys, bindings=s.bindings) for s in applied.stranded
            ],
            tests=map(_to_result, applied.results),
            propagation=to_propagation(nothing_to_drop=request.dry_run),
        )

    async def TestKeyspace(self, request: pb.TestKeyspaceRequest, caller: Caller) -> pb.TestKeyspaceResponse:
        results = await self._run(self._keyspaces.test, caller, request.source, request.name)
        return pb.TestKeyspaceResponse(results=map(_to_result, results))

    async def GetKeyspace(self, request: pb.GetKeyspaceRequest, caller: Caller) -> pb.GetKeyspaceResponse:
        stored, keyspace = await self._run(self._keyspaces.get, caller, request.name)
        return pb.GetKeyspaceResponse(keyspace=to_keyspace(stored, keyspace, source=True))

    async def ListKeyspaces(self, request: pb.ListKeyspacesRequest, caller: Caller) -> pb.ListKeyspacesResponse:
        rows, token = await self._run(self._keyspaces.list, caller, request.page_size, request.page_token)
        return pb.ListKeyspacesResponse(
            keyspaces=[to_keyspace(stored, keyspace, source=False) for stored, keyspace in rows],
            next_page_token=token,
        )

    async def GetJsonWebKeySet(
        self, request: pb.GetJsonWebKeySetRequest, caller: Caller
    ) -> pb.GetJsonWebKeySetResponse:
        return pb.GetJsonWebKeySetResponse(jwks=await self._run(self._keyspaces.json_web_key_set, caller, request.name))


def _to_result(it: CaseResult) -> pb.KeyspaceTestResult:
    return pb.KeyspaceTestResult(name=it.name, asked=it.asked, line=it.line, passed=it.passed, problem=it.problem)
