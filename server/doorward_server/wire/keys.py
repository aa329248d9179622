"""KeyService on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from doorward.v1 import keys_pb2 as pb
from doorward_server.core.fields import Default
from doorward_server.core.leaks import LeakOutcome
from doorward_server.core.model import Key, KeyFilter
from doorward_server.core.rails import ADVICE
from doorward_server.service.batch_revoking import BatchRevokes
from doorward_server.service.catalog import Catalog
from doorward_server.service.guard import Caller, Clock
from doorward_server.service.importing import Imports
from doorward_server.service.keys import Issued, Keys
from doorward_server.service.leaks import LeakReports
from doorward_server.service.pool import Pool
from doorward_server.service.revealing import Reveals
from doorward_server.service.settings import NewKey
from doorward_server.wire.convert import (
    CEILINGS,
    STATES,
    bounded,
    from_duration,
    from_enum,
    from_expiry,
    from_key_bindings,
    from_metadata,
    from_texts,
    from_timestamp,
    masked,
    repeat_of,
    to_key,
    to_propagation,
)
from doorward_server.wire.imports import read_batches, read_header, to_result


class KeyServicer:
    """Parses, calls the services on the management pool, converts."""

    def __init__(
        self,
        keys: Keys,
        imports: Imports,
        batch_revokes: BatchRevokes,
        reveals: Reveals,
        leaks: LeakReports,
        catalog: Catalog,
        management: Pool,
        clock: Clock,
    ) -> None:
        self._keys = keys
        self._imports = imports
        self._batch_revokes = batch_revokes
        self._reveals = reveals
        self._leaks = leaks
        self._catalog = catalog
        self._management = management
        self._clock = clock

    async def CreateKey(self, request: pb.CreateKeyRequest, caller: Caller) -> pb.CreateKeyResponse:
        new = NewKey(
            organization=request.organization,
            keyspace=request.keyspace,
            owner=request.owner,
            name=request.name,
            description=request.description,
            environment=request.environment,
            type=request.type,
            ceiling=from_enum("ceiling", request.ceiling, CEILINGS, None),
            scopes=from_texts("scopes", request.scopes),
            bindings=from_key_bindings(request.bindings),
            allowed_cidrs=from_texts("allowed_cidrs", request.allowed_cidrs),
            metadata=from_metadata(request.metadata),
            not_before=from_timestamp("not_before", request, "not_before"),
            expiry=from_expiry(request.expiry, Default()),
            api_version=request.api_version,
            limits=dict(request.limits),
        )
        issued = await self._management.run(self._keys.create, caller, new, repeat_of(request))
        warnings = [pb.Warning(code=it.value, message=ADVICE[it]) for it in issued.unwise]
        only_added = not (issued.replayed or issued.replaced)
        return pb.CreateKeyResponse(
            **await self._issued(issued),
            warnings=warnings,
            replaced_keys=issued.replaced,
            propagation=to_propagation(nothing_to_drop=only_added),
        )

    async def GetKey(self, request: pb.GetKeyRequest, caller: Caller) -> pb.GetKeyResponse:
        key = await self._management.run(self._keys.get, caller, request.organization, request.id)
        return pb.GetKeyResponse(key=await self._shown(key))

    async def ListKeys(self, request: pb.ListKeysRequest, caller: Caller) -> pb.ListKeysResponse:
        wanted = _filter(request.filter)
        keys, token = await self._management.run(
            self._keys.list, caller, request.organization, wanted, request.page_size, request.page_token
        )
        return pb.ListKeysResponse(keys=[await self._shown(key) for key in keys], next_page_token=token)

    async def UpdateKey(self, request: pb.UpdateKeyRequest, caller: Caller) -> pb.UpdateKeyResponse:
        settings = masked(request, request.update_mask, _SETTINGS)
        key = request.key
        written = await self._management.run(self._keys.update, caller, key.organization, key.id, settings, key.etag)
        return pb.UpdateKeyResponse(key=await self._shown(written.value), revision=written.revision)

    async def RotateKey(self, request: pb.RotateKeyRequest, caller: Caller) -> pb.RotateKeyResponse:
        if request.finish:
            issued = await self._management.run(self._keys.finish_rotation, caller, request.organization, request.id)
        else:
            grace = from_duration("grace", request.grace)
            issued = await self._management.run(
                self._keys.rotate, caller, request.organization, request.id, grace, repeat_of(request)
            )
        return pb.RotateKeyResponse(**await self._issued(issued))

    async def RevokeKey(self, request: pb.RevokeKeyRequest, caller: Caller) -> pb.RevokeKeyResponse:
        written = await self._management.run(
            self._keys.revoke, caller, request.organization, request.id, request.reason
        )
        return pb.RevokeKeyResponse(key=await self._shown(written.value), revision=written.revision)

    async def ReportLeak(self, request: pb.ReportLeakRequest, caller: Caller) -> pb.ReportLeakResponse:
        reported = await self._leaks.report(caller, request.key, request.keyspace, request.found_in)
        return pb.ReportLeakResponse(
            outcome=pb.LeakOutcome.Value(f"LEAK_OUTCOME_{reported.outcome}"),
            key_id=reported.key,
            organization=reported.organization,
            revision=reported.revision,
            propagation=to_propagation(nothing_to_drop=reported.outcome is LeakOutcome.KEY_UNKNOWN),
        )

    async def DeleteKey(self, request: pb.DeleteKeyRequest, caller: Caller) -> pb.DeleteKeyResponse:
        written = await self._management.run(self._keys.delete, caller, request.organization, request.id)
        return pb.DeleteKeyResponse(revision=written.revision)

    async def BatchRevokeKeys(self, request: pb.BatchRevokeKeysRequest, caller: Caller) -> pb.BatchRevokeKeysResponse:
        expected = request.expected_count if request.HasField("expected_count") else None
        ended = await self._management.run(
            self._batch_revokes.revoke,
            caller,
            request.organization,
            _filter(request.filter),
            request.reason,
            expected,
            dry_run=request.dry_run,
        )
        sample = [await self._shown(key) for key in ended.sample]
        return pb.BatchRevokeKeysResponse(
            count=ended.count,
            sample=sample,
            revision=ended.revision,
            propagation=to_propagation(nothing_to_drop=request.dry_run),
        )

    async def RevealKey(self, request: pb.RevealKeyRequest, caller: Caller) -> pb.RevealKeyResponse:
        text = await self._management.run(self._reveals.reveal, caller, request.organization, request.id)
        return pb.RevealKeyResponse(secret=text.reveal())

    async def ImportKeys(self, requests: AsyncIterator[pb.ImportKeysRequest], caller: Caller) -> pb.ImportKeysResponse:
        rest = aiter(requests)
        header = await read_header(rest)
        taken = await self._imports.take(
            caller, header.organization, header.keyspace, read_batches(rest), dry_run=header.dry_run
        )
        # It never ends a key: where an owner has as many as the keyspace allows, the row is rejected.
        return pb.ImportKeysResponse(
            results=map(to_result, taken.results),
            revision=taken.revision,
            propagation=to_propagation(nothing_to_drop=True),
        )

    async def _shown(self, key: Key) -> pb.Key:
        keyspace = self._catalog.known(key.keyspace)
        if keyspace is None:
            keyspace = await self._management.run(self._catalog.get, key.keyspace)
        return to_key(key, self._clock(), keyspace)

    async def _issued(self, issued: Issued) -> dict[str, Any]:
        return {
            "key": await self._shown(issued.key),
            "secret": issued.secret.reveal() if issued.secret else "",
            "replayed": issued.replayed,
            "revision": issued.revision,
        }


_SETTINGS = {
    "name": lambda r: r.key.name,
    "description": lambda r: r.key.description,
    "type": lambda r: r.key.type,
    "metadata": lambda r: from_metadata(r.key.metadata),
    "scopes": lambda r: from_texts("scopes", r.key.scopes),
    "bindings": lambda r: from_key_bindings(r.key.bindings),
    "expires_at": lambda r: (
        from_expiry(r.expiry, None) if r.HasField("expiry") else from_timestamp("key.expires_at", r.key, "expires_at")
    ),
    "allowed_cidrs": lambda r: from_texts("allowed_cidrs", r.key.allowed_cidrs),
    "limits": lambda r: dict(r.key.limits),
    "enabled": lambda r: r.key.enabled,
}


def _filter(wanted: pb.KeyFilter) -> KeyFilter:
    states = bounded("filter.states", wanted.states)
    return KeyFilter(
        keyspace=wanted.keyspace,
        owner=wanted.owner,
        environment=wanted.environment,
        type=wanted.type,
        states=frozenset(from_enum("filter.states", state, STATES, None) for state in states) - {None},
        name_contains=wanted.name_contains,
        created_after=from_timestamp("filter.created_after", wanted, "created_after"),
        created_before=from_timestamp("filter.created_before", wanted, "created_before"),
        expires_before=from_timestamp("filter.expires_before", wanted, "expires_before"),
        last_used_before=from_timestamp("filter.last_used_before", wanted, "last_used_before"),
        never_used=wanted.never_used,
    )
