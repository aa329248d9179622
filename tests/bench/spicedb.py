"""One relation in an embedded SpiceDB, asked about many times. Runs on the Python of build/peers, which alone has it.

Prints JSON: the median and the 99th percentile of one CheckPermission, in microseconds.
"""

# mypy: ignore-errors

from __future__ import annotations

import json
import statistics
import sys
import time

from authzed.api.v1 import (
    CheckPermissionRequest,
    CheckPermissionResponse,
    Consistency,
    ObjectReference,
    Relationship,
    SubjectReference,
)
from spicedb_embedded import EmbeddedSpiceDB

SCHEMA = """
definition user {}
definition flow {
    relation editor: user
    permission update = editor
}
"""


def main() -> None:
    """Measure and print."""
    flow = ObjectReference(object_type="flow", object_id="abc123")
    alice = SubjectReference(object=ObjectReference(object_type="user", object_id="alice"))
    relationship = Relationship(resource=flow, relation="editor", subject=alice)
    request = CheckPermissionRequest(
        consistency=Consistency(minimize_latency=True), resource=flow, permission="update", subject=alice
    )
    with EmbeddedSpiceDB.start(SCHEMA, [relationship]) as spicedb:
        permissions, took = spicedb.permissions(), []
        for turn in range(int(sys.argv[1]) + 200):
            began = time.perf_counter()
            answer = permissions.CheckPermission(request)
            if turn >= 200:
                took.append((time.perf_counter() - began) * 1e6)
            if answer.permissionship != CheckPermissionResponse.PERMISSIONSHIP_HAS_PERMISSION:
                raise SystemExit(f"not allowed: {answer}")
    took.sort()
    print(
        json.dumps({"spicedb_check_us": statistics.median(took), "spicedb_check_us_p99": took[int(len(took) * 0.99)]})
    )


if __name__ == "__main__":
    main()
