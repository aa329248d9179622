"""Where webhooks are sent, and where never: real sockets, real TLS; only the names are looked up by the test."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from doorward_server.service.posting import Places, Poster
from tests.core.test_webhooks import NOT_PUBLIC
from tests.service.receivers import Receiver, receiving

PUBLIC = "93.184.216.34"
NAME = "hooks.example.com"


class Names:
    """Answers for lookups, one after the other; the last one for all after them, too."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Places:
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [_place(address, port) for address in answer]


def _place(address: str, port: int) -> Any:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that connections are made to: none leaves this machine."""
    dialled: list[str] = []

    def connect(self: socket.socket, address: Any) -> None:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    return dialled


def poster(names: Names | None = None, *, private: bool = False, tls: ssl.SSLContext | None = None) -> Poster:
    given = {"resolve": names} if names else {}
    return Poster(tls or ssl.create_default_context(), allow_private=private, seconds=20.0, **given)


def test_a_message_arrives_as_it_was_sent(receiver: Receiver) -> None:
    posted = poster(private=True).post(receiver.url(path="/a/b?c=d"), {"webhook-id": "msg_1"}, "Ä".encode())
    assert (posted.status, posted.accepted) == (204, True)
    (request,) = receiver.received
    assert (request.path, request.id, request.body) == ("/a/b?c=d", "msg_1", "Ä".encode())
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_is_not_reached(receiver: Receiver, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    posted = poster().post(receiver.url(host), {}, b"")
    assert "private network" in posted.problem or "not known" in posted.problem  # where there is no IPv6
    assert receiver.received == []


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_that_leads_inside_is_not_connected_to(dialled: list[str], address: str) -> None:
    posted = poster(Names([address])).post(f"https://{NAME}/", {}, b"")
    assert (posted.status, posted.problem) == (0, f"{NAME} leads into a private network, where webhooks are not sent.")
    assert dialled == []


def test_one_private_address_among_public_ones_is_enough(dialled: list[str]) -> None:
    for answer in ([PUBLIC, "169.254.169.254"], ["10.0.0.1", PUBLIC]):
        assert "private" in poster(Names(answer)).post(f"https://{NAME}/", {}, b"").problem
    assert dialled == []


def test_a_name_that_changes_after_it_was_checked_leads_nowhere_else(receiver: Receiver, dialled: list[str]) -> None:
    """DNS rebinding: the connection is made to the address that was checked, and the name is not looked up again."""
    names = Names([PUBLIC], ["127.0.0.1"])
    poster(names).post(f"http://{NAME}:{receiver.port}/", {}, b"")
    assert dialled == [PUBLIC]
    assert names.asked == [(NAME, receiver.port)]
    poster(names).post(f"http://{NAME}:{receiver.port}/", {}, b"")
    assert dialled == [PUBLIC], "and the next attempt looks, and sees where it leads by then"
    assert receiver.received == []


def test_a_name_that_nobody_knows_is_told(dialled: list[str]) -> None:
    def unknown(host: str, port: int) -> Places:
        raise socket.gaierror

    for names in (unknown, Names([])):
        posted = Poster(ssl.create_default_context(), allow_private=False, resolve=names).post(
            f"https://{NAME}/", {}, b""
        )
        assert posted.problem == f"The name {NAME} is not known."


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(receiver: Receiver, status: int) -> None:
    receiver.statuses, receiver.headers = [status, 200], {"location": receiver.url(path="/elsewhere")}
    posted = poster(private=True).post(receiver.url(), {}, b"")
    assert (posted.status, posted.accepted) == (status, False)
    assert [it.path for it in receiver.received] == ["/hook"]


@pytest.mark.parametrize(("status", "accepted"), [(200, True), (202, True), (299, True), (400, False), (503, False)])
def test_any_2xx_is_received(receiver: Receiver, status: int, accepted: bool) -> None:
    receiver.statuses = [status]
    posted = poster(private=True).post(receiver.url(), {}, b"")
    assert (posted.status, posted.accepted) == (status, accepted)


def test_who_answers_a_byte_at_a_time_is_not_waited_for(receiver: Receiver) -> None:
    """A timeout between two bytes never comes there."""
    receiver.drips = True
    slow = Poster(ssl.create_default_context(), allow_private=True, seconds=0.3)
    assert slow.post(receiver.url(), {}, b"").problem == "No answer within 0.3 s."


def test_nobody_there_is_told(receiver: Receiver) -> None:
    with receiving() as gone:
        url = gone.url()
    assert poster(private=True).post(url, {}, b"").problem == "No answer: ConnectionRefusedError."


def test_what_speaks_no_http_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        posted = poster(private=True).post(f"http://127.0.0.1:{server.getsockname()[1]}/", {}, b"{}")
        thread.join(60)
    assert posted.problem.startswith("No answer: ")


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    with receiving(context) as receiver:
        yield receiver


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_certificate_is_verified_against_the_name(secure: Receiver, authority: trustme.CA) -> None:
    here, tls = Names(["127.0.0.1"]), trusting(authority)
    assert poster(here, private=True, tls=tls).post(secure.url(NAME), {}, b"{}").accepted
    for other in ("other.example.com", "127.0.0.1"):
        posted = poster(here, private=True, tls=tls).post(secure.url(other), {}, b"{}")
        assert f"The certificate is not good for {other}" in posted.problem
    assert len(secure.received) == 1


def test_a_certificate_of_nobody_we_trust_is_not_good(secure: Receiver) -> None:
    posted = poster(Names(["127.0.0.1"]), private=True).post(secure.url(NAME), {}, b"{}")
    assert "The certificate is not good for" in posted.problem
    assert secure.received == []
