"""Rows about proofs and imports: a flood of wrong slow proofs beside an Authorize, and 100,000 imported hashes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from doorward.v1 import authz_pb2, authz_pb2_grpc, keys_pb2, keys_pb2_grpc, keyspaces_pb2, keyspaces_pb2_grpc

HERE = Path(__file__).parent
SAMPLES = 100_000
"""Of each kind of text whose denial is timed."""
IMPORTED = 100_000
PER_CALL = 10_000
FLOODERS = 12
"""Callers that always wait for an answer about a wrong secret; each takes a quarter of a second of a core."""
FLOOD_ROUNDS = 3
Metadata = tuple[tuple[str, str], ...]

SLOW = """
keyspace: slow
prefix: slow
verifier: bcrypt-sha256
credentials: [{header: x-api-key}]
types: {things: [read]}
roles:
  reader: {rules: [{actions: ['things:read']}]}
"""
MOVED = """
keyspace: moved
prefix: moved
credentials: [{header: x-api-key}]
legacy: [{name: old, prefix: old_, alphabet: hex, length: 64, entropy_bits: 256}]
types: {things: [read]}
roles:
  reader: {rules: [{actions: ['things:read']}]}
"""


def timing(samples: int = SAMPLES) -> dict[str, float]:
    """Welch's t between kinds of denials, measured in a process of its own."""
    command = [sys.executable, str(HERE / "timing.py"), "--samples", str(samples)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return dict(json.loads(done.stdout))


def deciding() -> dict[str, float]:
    """What one decision costs, measured in a process of its own."""
    done = subprocess.run([sys.executable, str(HERE / "deciding.py")], stdout=subprocess.PIPE, check=True, timeout=300)
    return dict(json.loads(done.stdout))


class Proofs:
    """A server that is asked as root."""

    def __init__(self, port: int, root: str) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        grpc.channel_ready_future(self._channel).result(30)
        self._metadata: Metadata = (("authorization", f"Bearer {root}"),)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _apply(self, source: str) -> None:
        stub = keyspaces_pb2_grpc.KeyspaceServiceStub(self._channel)
        stub.ApplyKeyspace(keyspaces_pb2.ApplyKeyspaceRequest(source=source), metadata=self._metadata, timeout=30)

    def flooded(self, rate: Callable[[], float]) -> dict[str, float]:
        """What is left of *rate* while wrong bcrypt proofs are asked for, in turn with what it is without them."""
        self._apply(SLOW)
        request = keys_pb2.CreateKeyRequest(organization="bench", keyspace="slow", name="slow", scopes=["reader"])
        made = keys_pb2_grpc.KeyServiceStub(self._channel).CreateKey(request, metadata=self._metadata, timeout=60)
        quiet, loud, answers = [], [], 0
        for _ in range(FLOOD_ROUNDS):
            quiet.append(rate())
            with self._flood(made.secret) as counted:
                time.sleep(0.5)
                loud.append(rate())
            answers += sum(counted.values())
        if not answers:
            raise SystemExit("the flood was not answered once")
        each = [a / b for a, b in zip(loud, quiet, strict=True)]
        return {"authorize_beside_bcrypt_flood": statistics.median(each), "bcrypt_flood_denials": answers}

    @contextlib.contextmanager
    def _flood(self, secret: str) -> Iterator[dict[str, int]]:
        """Ask about wrong secrets of a key whose proof is slow, until the end of the block; yields what came of it."""
        from doorward_server.core import keytext

        stub, stop, numbers = authz_pb2_grpc.AuthzServiceStub(self._channel), threading.Event(), itertools.count()
        counted: dict[str, int] = {}
        head = secret[: -keytext.CHECKSUM_LENGTH - keytext.SECRET_LENGTH]

        def flood() -> None:
            while not stop.is_set():
                text = head + keytext.base62(next(numbers), keytext.SECRET_LENGTH)
                request = authz_pb2.AuthorizeRequest(
                    key=text + keytext.checksum(text), keyspace="slow", action="things:read", organization="bench"
                )
                try:
                    answer = stub.Authorize(request, metadata=self._metadata, timeout=60)
                    if answer.reason != authz_pb2.REASON_KEY_UNKNOWN:
                        raise SystemExit(f"a wrong secret was answered {answer.reason}")
                    counted["denied"] = counted.get("denied", 0) + 1
                except grpc.RpcError as problem:
                    if problem.code() is not grpc.StatusCode.UNAVAILABLE:  # too many wait: as it should be
                        raise
                    stop.wait(0.1)

        threads = [threading.Thread(target=flood) for _ in range(FLOODERS)]
        for thread in threads:
            thread.start()
        try:
            yield counted
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)

    def imported(self, empty_rate: float, count: int = IMPORTED) -> dict[str, float]:
        """Rows per second of an import of SHA-256 hashes, and per empty RPC that would fit in the time."""
        self._apply(MOVED)
        stub = keys_pb2_grpc.KeyServiceStub(self._channel)
        began = time.perf_counter()
        for start in range(0, count, PER_CALL):
            rows = _rows(start, min(start + PER_CALL, count))
            answer = stub.ImportKeys(rows, metadata=self._metadata, timeout=300)
            created = sum(it.outcome == keys_pb2.IMPORT_OUTCOME_CREATED for it in answer.results)
            if created != min(PER_CALL, count - start):
                raise SystemExit(f"only {created} rows came in: {answer.results[0]}")
        rate = count / (time.perf_counter() - began)
        return {"imported_sha256_rows": count, "imported_sha256_rows_per_empty_rpc": rate / empty_rate}


def _rows(start: int, end: int) -> Iterator[keys_pb2.ImportKeysRequest]:
    yield keys_pb2.ImportKeysRequest(header=keys_pb2.ImportHeader(organization="bench", keyspace="moved"))
    for number in range(start, end):
        text = "old_" + hashlib.sha256(str(number).encode()).hexdigest()
        row = keys_pb2.ImportRow(
            external_id=str(number),
            name=f"imported key {number}",
            hash=hashlib.sha256(text.encode()).hexdigest(),
            hash_kind=keys_pb2.IMPORTED_HASH_SHA256,
            last4=text[-4:],
            scopes=["reader"],
        )
        yield keys_pb2.ImportKeysRequest(row=row)
