"""How long RevokeKey waits until every cache has dropped the key; what a flood of cold lookups does to warm ones."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import grpc

from doorward.v1 import authz_pb2, authz_pb2_grpc, keys_pb2, keys_pb2_grpc, keyspaces_pb2, keyspaces_pb2_grpc
from doorward_server.core.keytext import mint

REVOKES, FLOODERS = 200, 8
SHOP = """
keyspace: waits
prefix: waits
environments: [live]
credentials: [{header: x-api-key}]
types: {things: [read]}
roles:
  reader: {rules: [{actions: ["things:read"]}]}
"""


class Waits:
    """A caller who revokes, and callers who ask about keys that nobody was given."""

    def __init__(self, port: int, root: str) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._as_root = (("authorization", f"Bearer {root}"),)
        self._keys = keys_pb2_grpc.KeyServiceStub(self._channel)
        self._authz = authz_pb2_grpc.AuthzServiceStub(self._channel)
        request = keyspaces_pb2.ApplyKeyspaceRequest(source=SHOP)
        keyspaces_pb2_grpc.KeyspaceServiceStub(self._channel).ApplyKeyspace(request, metadata=self._as_root)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def revoked(self, times: int = REVOKES) -> dict[str, float]:
        """Return the median and the 99th percentile of RevokeKey, in milliseconds."""
        took = sorted(self._revoke(self._create()) for _ in range(times))
        return {
            "revoke_key_ms_p50": statistics.median(took),
            "revoke_key_ms_p99": took[min(times - 1, int(times * 0.99))],
        }

    def flooded(self, measure: Callable[[], float]) -> dict[str, float]:
        """Return the throughput that *measure* finds while others ask about unknown keys, by that without."""
        alone, over = measure(), threading.Event()
        threads = [threading.Thread(target=self._flood, args=(over, number)) for number in range(FLOODERS)]
        for thread in threads:
            thread.start()
        flooded = measure()
        over.set()
        for thread in threads:
            thread.join()
        return {"authorize_in_cold_flood_per_authorize": flooded / alone}

    def _create(self) -> str:
        request = keys_pb2.CreateKeyRequest(keyspace="waits", name="to be revoked", scopes=["reader"])
        return str(self._keys.CreateKey(request, metadata=self._as_root).key.id)

    def _revoke(self, id: str) -> float:
        began = time.perf_counter()
        self._keys.RevokeKey(keys_pb2.RevokeKeyRequest(id=id), metadata=self._as_root)
        return (time.perf_counter() - began) * 1000

    def _flood(self, over: threading.Event, number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            text = mint("waits", "live", f"{number} {count}".encode().ljust(32, b".")).secret.reveal()
            request = authz_pb2.AuthorizeRequest(key=text, keyspace="waits", action="things:read")
            try:
                self._authz.Authorize(request, metadata=self._as_root)
            except grpc.RpcError:  # too much is shed: that is what a flood is for
                continue
