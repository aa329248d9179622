"""Failures, as a server sends them and as a caller catches them."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import traceback
from typing import Any

import grpc
import pytest

from doorward import CallFailed, Client, Denied, DoorwardError, Misconfigured, errors
from doorward.errors import BY_REASON
from doorward.v1 import authz_pb2, errors_pb2, keys_pb2
from tests.client.door import KEY, Door, Failure, failure


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_every_reason_arrives_as_its_class(reason: str, client: Any, door: Door) -> None:
    kind = BY_REASON[reason]
    code = grpc.StatusCode[kind.code]
    door.will("GetKey", failure(code, reason, type="key", id="key_1"))
    with pytest.raises(CallFailed) as caught:
        client.get_key("key_1")
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.reason, error.message, str(error)) == (code.name, reason, "No.", "No.")
    assert error.metadata == {"type": "key", "id": "key_1"}


def test_the_field_is_told_by_error_info_or_else_by_bad_request(client: Any, door: Door) -> None:
    code = grpc.StatusCode.INVALID_ARGUMENT
    door.will(
        "GetKey",
        failure(code, "INVALID_FIELD", field="id", rule="is required"),
        failure(code, "INVALID_FIELD"),
    )
    with pytest.raises(errors.InvalidField) as caught:
        client.get_key("")
    assert caught.value.field == "id"
    with pytest.raises(errors.InvalidField) as caught:
        client.get_key("")
    assert caught.value.field == ""


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_failure_without_a_known_reason_is_the_class_of_its_status(
    code: grpc.StatusCode, client: Any, door: Door
) -> None:
    expected = errors.BY_CODE.get(code.name, CallFailed)
    for sent in (Failure(code), failure(code, "FROM_THE_FUTURE"), failure(code, "NOT_FOUND", domain="another.example")):
        door.will("DeleteKey", sent)
        with pytest.raises(CallFailed) as caught:
            client.delete_key("key_1")
        assert type(caught.value) is expected
        assert caught.value.code == code.name
    door.will("DeleteKey", failure(code, "FROM_THE_FUTURE"))
    with pytest.raises(expected) as caught:
        client.delete_key("key_1")
    assert caught.value.reason == "FROM_THE_FUTURE"


def test_damaged_details_leave_the_status(client: Any, door: Door) -> None:
    door.will("DeleteKey", Failure(grpc.StatusCode.NOT_FOUND, "Gone.", b"\xff\xff\xff"))
    with pytest.raises(errors.NotFound, match="Gone"):
        client.delete_key("key_1")


def test_every_code_has_its_name() -> None:
    assert dict(errors.CODES) == {code.value[0]: code.name for code in grpc.StatusCode}
    assert errors.BY_CODE.keys() <= {code.name for code in grpc.StatusCode}


def test_nothing_of_the_call_hangs_on_to_its_error(client: Any, door: Door) -> None:
    """Tracebacks end up in logs, chained ones and local variables with them."""
    door.will("Authorize", Failure(grpc.StatusCode.INTERNAL))
    with pytest.raises(CallFailed) as caught:
        client.authorize("hush-hush", keyspace="aiia", action="findings:read")
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    homes = ("/client/doorward/client.py", "/client/doorward/aio.py")
    ours = [frame for frame in frames.stack if frame.filename.endswith(homes) and frame.name == "_ask"]
    assert ours
    assert all(
        "hush-hush" not in value and KEY not in value for frame in ours for value in (frame.locals or {}).values()
    )


def test_errors_survive_pickling(client: Any, door: Door) -> None:
    """Process pools and task queues send them on."""
    door.will("GetKey", failure(grpc.StatusCode.FAILED_PRECONDITION, "KEY_IS_REVOKED", id="key_1"))
    door.will("Authorize", authz_pb2.AuthorizeResponse(decision=authz_pb2.DECISION_DENY, message="No."))
    for ask in (
        lambda: client.get_key("key_1"),
        lambda: client.require("k", keyspace="aiia", action="findings:read"),
        lambda: Client("", ""),
    ):
        with pytest.raises(DoorwardError) as caught:
            ask()
        again = pickle.loads(pickle.dumps(caught.value))
        assert type(again) is type(caught.value)
        assert (str(again), vars(again)) == (str(caught.value), vars(caught.value))


def test_a_denial_is_no_failure(client: Any, door: Door) -> None:
    answer = authz_pb2.AuthorizeResponse(decision=authz_pb2.DECISION_DENY, reason=authz_pb2.REASON_KEY_EXPIRED)
    door.will("Authorize", answer)
    assert not client.authorize("k", keyspace="aiia", action="findings:read")
    with pytest.raises(Denied) as caught:
        client.require("k", keyspace="aiia", action="findings:read")
    assert not isinstance(caught.value, CallFailed)
    assert caught.value.decision.reason == "KEY_EXPIRED"


def test_an_outcome_of_the_future_is_a_denial(client: Any, door: Door) -> None:
    door.will("Authorize", authz_pb2.AuthorizeResponse.FromString(bytes([0x08, 9, 0x10, 99])))
    decision = client.authorize("k", keyspace="aiia", action="findings:read")
    assert (decision.allowed, decision.reason) == (False, "UNKNOWN")


def test_nobody_there_is_unavailable_at_once(make: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        client = make(f"127.0.0.1:{taken.getsockname()[1]}", KEY)
        with pytest.raises(errors.Unavailable):
            client.whoami(timeout=60)


def test_the_decoder_does_not_clash_with_the_real_messages() -> None:
    """Both orders, each in a process of its own: whoever comes second would be the one to fail."""
    ours, theirs = "import doorward.status", "from google.rpc import error_details_pb2, status_pb2"
    for first, second in ((ours, theirs), (theirs, ours)):
        subprocess.run([sys.executable, "-c", f"{first}\n{second}\nstatus_pb2.Status(code=5)"], check=True)


def test_reasons_are_spelt_as_in_the_contract() -> None:
    assert {f"ERROR_REASON_{reason}" for reason in BY_REASON} < {name for name, _ in errors_pb2.ErrorReason.items()}


def test_misconfigured_is_a_value_error_with_all_problems() -> None:
    with pytest.raises(ValueError, match="the target is empty; the key is empty") as caught:
        Client("", "")
    assert isinstance(caught.value, Misconfigured)
    assert len(caught.value.problems) == 2


def test_an_answer_that_is_none_of_ours_is_a_failure(client: Any, door: Door) -> None:
    door.will("GetKey", lambda request: keys_pb2.CreateKeyRequest(organization="\N{SNOWMAN}", ceiling=5))  # type: ignore[arg-type]
    with pytest.raises(CallFailed):
        client.get_key("key_1")
