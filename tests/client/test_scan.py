"""`doorward scan`: every planted key is found, where it is, and none is shown."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from doorward import scanning
from doorward.scanning import CHUNK, Scanner
from doorward.shapes import CONTEXT, LONGEST, Shapes, shapes_of
from doorward.v1 import keys_pb2, keyspaces_pb2
from doorward_server.core.formats import mint_uuid
from doorward_server.core.keytext import mint
from tests.client.door import Door

Run = Callable[..., Result]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "keyspaces"
THINGS = """
keyspace: things
prefix: th_ings
environments: [live, test]
credentials: [{header: x-api-key}]
types: {things: [read]}
legacy: [{name: old, prefix: sk-, alphabet: hex, length: [32, 4000], entropy_bits: 128}]
"""
BESIDE = (
    "FACTION-API-KEY: {}",
    "-H 'faction-api-key: {}'",
    '"Faction-Api-Key": "{}"',
    "FACTION-API-KEY={}",
    "export FACTION_API_KEY='{}'",
    'headers["FACTION-API-KEY"] = "{}"',
    "headers = {{'FACTION-API-KEY' => '{}'}}",
    'request.setRequestHeader("FACTION-API-KEY", "{}");',
    "$headers = @{{ 'FACTION-API-KEY' = '{}' }}",
    '<add key="FACTION-API-KEY" value="{}"/>',
    '{{"key": "FACTION-API-KEY", "value": "{}"}}',
)
"""As source of several languages has it."""
_numbers = itertools.count(1)


def key(prefix: str = "th_ings", environment: str = "live") -> str:
    """A text as Doorward makes it."""
    return mint(prefix, environment, next(_numbers).to_bytes(32, "big")[::-1]).secret.reveal()


def damaged(text: str) -> str:
    return text[:-1] + ("A" if text[-1] != "A" else "B")


def scanner(*sources: str, **settings: Any) -> Scanner:
    shapes = [shape for source in sources or (THINGS,) for shape in shapes_of(yaml.safe_load(source))[0]]
    return Scanner(Shapes(shapes), **settings)


def found(data: bytes, *sources: str) -> list[tuple[int, str]]:
    """Line and text of each key in *data*."""
    findings = scanner(*sources).stream(io.BytesIO(data))
    return [(it.line, it.secret.reveal()) for it in findings]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "things.yaml"
    path.write_text(THINGS)
    return str(path)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_a_key_is_found_whatever_it_is_pasted_to() -> None:
    text, test = key(), key(environment="test")
    for around in ("{}", "KEY={}", '"{}"', "x{}y9", "https://u:{}@host/?{}", "{}{}", "th_ings_live_{}", "th_ings{}"):
        data = around.format(text, test)
        expected = [it for it in (text, test) if it in data]
        assert [it for _, it in found(data.encode())] == expected, around
    assert found(damaged(text).encode()) == []
    assert found(key("others").encode()) == []
    assert found(text.upper().encode()) == []


def test_lines_are_counted_as_editors_do() -> None:
    one, two = key(), key()
    assert found(f"a\r\nb\r\n{one}\r\n{two}".encode()) == [(3, one), (4, two)]
    assert found(f"{one} {two}\n".encode()) == [(1, one), (1, two)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig", "latin-1"])
def test_encodings(encoding: str) -> None:
    text = key()
    data = f"ä\n{text}\n".encode(encoding)
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data
    assert found(data) == [(2, text)]


def test_what_is_no_text_is_skipped_and_said_so() -> None:
    skipped: list[tuple[str, str]] = []
    look = scanner(skipped=lambda place, why: skipped.append((place, why)))
    assert list(look.stream(io.BytesIO(b"\x7fELF\0" + key().encode()), "a.out")) == []
    assert skipped == [("a.out", "it is no text")]


class Drops:
    """A stream that gives fewer bytes than it is asked for."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes = io.BytesIO(data), itertools.cycle(sizes)

    def read(self, size: int, /) -> bytes:
        return self._data.read(min(size, next(self._sizes)))


@pytest.mark.parametrize("sizes", [[7], [1, 4096], [8192, 3], [LONGEST, CONTEXT]])
def test_a_key_across_two_reads_is_found_once(sizes: list[int]) -> None:
    planted, parts = [], []
    for gap in range(60):
        planted.append(key())
        parts.append(b"." * (gap * 37 % 500) + b"\n" * (gap % 3) + planted[-1].encode())
    data = b"".join(parts)
    told = [(it.line, it.secret.reveal()) for it in scanner().stream(Drops(data, sizes))]
    assert [text for _, text in told] == planted
    assert told == [(1 + data[: data.index(text.encode())].count(b"\n"), text) for text in planted]


@pytest.mark.parametrize("offset", [-60, -30, -1, 0, 1, 30])
def test_a_key_at_the_border_of_a_chunk_is_found_once(offset: int) -> None:
    text, uuid = key(), mint_uuid(bytes(range(16))).reveal()
    for border in (8192, 8192 + CHUNK, 8192 + CHUNK - LONGEST):
        data = b"x" * (border + offset - 40) + b"\nFaction-Api-Key: " + uuid.encode() + b" " + text.encode()
        data += b"\n" + b"y" * (CHUNK + LONGEST)
        faction = (EXAMPLES / "faction.yaml").read_text("utf-8")
        assert found(data, THINGS, faction) == [(2, uuid), (2, text)], border


def test_memory_does_not_grow_with_what_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    stretches = scanning._stretches

    def watched(chunks: Any) -> Any:
        nonlocal largest
        for data, start, end in stretches(chunks):
            largest = max(largest, len(data))
            yield data, start, end

    monkeypatch.setattr(scanning, "_stretches", watched)
    text = key()
    data = (b"z" * 1000 + b"\n") * 9000 + text.encode()
    assert [it.secret.reveal() for it in scanner().stream(io.BytesIO(data))] == [text]
    assert largest <= CHUNK + LONGEST + CONTEXT + 2


# --- other formats ----------------------------------------------------------------------------------------------------


def test_a_uuid_is_found_only_beside_its_header() -> None:
    source = (EXAMPLES / "faction.yaml").read_text("utf-8")
    uuid = mint_uuid(bytes(range(16))).reveal()
    for line in BESIDE:
        assert found(line.format(uuid).encode(), source) == [(1, uuid)], line
    for other in ("id: {}", "FACTION-API-KEY: see {}", "FACTION-API-KEY:\n\n{}", "FACTION-API-KEY" + " " * 21 + "{}"):
        assert found(other.format(uuid).encode(), source) == [], other
    _, missed = shapes_of(yaml.safe_load(source))
    assert missed == ["faction: a UUID is only found beside the name of its header"]


def test_a_jwt_is_told_by_its_claims() -> None:
    import jwt

    source = (EXAMPLES / "invicti.yaml").read_text("utf-8")
    claims = {"sub": "alice", "organization": "acme", "jti": "key_1", "iat": 1, "roles": [], "sid": "0"}
    ours = jwt.encode(claims, "k" * 32, algorithm="HS256")
    theirs = jwt.encode({"sub": "alice", "iat": 1, "aud": "others"}, "k" * 32, algorithm="HS256")
    assert found(f"X-Auth: {ours}\nX-Auth: {theirs}\n".encode(), source) == [(1, ours)]


def test_legacy_texts_are_told_by_prefix_and_length() -> None:
    old = f"sk-{'0123456789abcdef' * 3}"
    assert found(f"a={old};".encode()) == [(1, old)]
    assert found(f"task-{'a' * 40} sk-{'a' * 31}".encode()) == []
    unnamed = THINGS.replace("prefix: sk-, ", "")
    _, missed = shapes_of(yaml.safe_load(unnamed))
    assert missed == ["things: texts of the legacy format old cannot be told from others"]


# --- files, git, the command ------------------------------------------------------------------------------------------


def test_files_and_folders(run: Run, file: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "src").mkdir(parents=True)
    (tree / ".git").mkdir()
    text, other = key(), key()
    (tree / "src" / "a.py").write_text(f"\nKEY = '{text}'\n")
    (tree / ".git" / "config").write_text(key())
    (tree / "big.log").write_text("x" * (2 << 20) + key())
    (tree / "z.bin").write_bytes(b"\0" + key().encode())
    os.symlink(tree / "src" / "a.py", tree / "link.py")
    (tree / "b.env").write_text(other)
    done = run("scan", str(tree), "--keyspace-file", file, "--max-size", "1", DOORWARD_TARGET="127.0.0.1:1")
    assert done.exit_code == 1
    assert done.stdout == (
        f"{tree}/b.env:1: th_ings_live_…{other[-4:]} of things\n"
        f"{tree}/src/a.py:2: th_ings_live_…{text[-4:]} of things\n"
    )
    assert f"Skipped {tree}/big.log: it is too large." in done.stderr
    assert f"Skipped {tree}/z.bin: it is no text." in done.stderr
    assert done.stderr.endswith("2 found, 2 files skipped.\n")
    assert text[13:-4] not in done.output


def test_nothing_found_is_exit_code_0_and_nothing_there_is_2(run: Run, file: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("scan", str(tmp_path / "empty"), "--keyspace-file", file)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "0 found.\n")
    assert run("scan", str(tmp_path / "nowhere"), "--keyspace-file", file).exit_code == 2
    assert run("scan", "--keyspace-file", file).exit_code == 2
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    assert "is no keyspace file" in run("scan", ".", "--keyspace-file", str(bad)).stderr


def test_standard_input_and_json(run: Run, file: str) -> None:
    text = key()
    done = run("scan", "-", "--keyspace-file", file, "--output", "json", stdin=f"a\n{text}\n")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == [
        {
            "keyspace": "things",
            "format": "opaque",
            "place": "-",
            "line": 2,
            "masked": f"th_ings_live_…{text[-4:]}",
        }
    ]


def test_keyspaces_are_asked_for_and_findings_are_reported(run: Run, door: Door) -> None:
    text = key()
    named = keyspaces_pb2.Keyspace(name="things")
    door.will("ListKeyspaces", keyspaces_pb2.ListKeyspacesResponse(keyspaces=[named]))
    door.will(
        "GetKeyspace",
        keyspaces_pb2.GetKeyspaceResponse(keyspace=keyspaces_pb2.Keyspace(name="things", source=THINGS)),
    )
    outcome = keys_pb2.ReportLeakResponse(outcome=keys_pb2.LEAK_OUTCOME_REVOKED, key_id="key_1", organization="acme")
    door.will("ReportLeak", outcome)
    done = run("scan", "-", "--report", stdin=f"\n{text}")
    assert done.exit_code == 1
    assert done.stdout == f"-:2: th_ings_live_…{text[-4:]} of things (reported key_1: REVOKED)\n"
    assert door.last.request == keys_pb2.ReportLeakRequest(key=text, keyspace="things", found_in="-:2")
    assert run("scan", "-", stdin=text).exit_code == 1
    assert door.last.rpc == "GetKeyspace", "nothing is reported unless it is asked for"


def test_a_key_in_the_name_of_a_file_is_masked(run: Run, file: str, tmp_path: Path) -> None:
    named, inside, folder = key(), key(), tmp_path / "leaky"
    folder.mkdir()
    (folder / f"{named}.txt").write_text(inside)
    (folder / f"{named}.bin").write_bytes(b"\0")
    for words in ([], ["--output", "json"]):
        done = run(*words, "scan", str(folder), "--keyspace-file", file)
        assert done.exit_code == 1
        assert f"{named[-4:]}.txt" in done.stdout
        assert f"{named[-4:]}.bin" in done.stderr
        assert named not in done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    return path


def git(repository: Path, *words: str) -> str:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    who = ["-c", "user.name=a", "-c", "user.email=a@acme.example", "-c", "commit.gpgSign=false"]
    done = subprocess.run(
        ["git", "-C", str(repository), *who, *words], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_git_history_is_looked_into(run: Run, file: str, repository: Path) -> None:
    first, gone, said = key(), key(), key()
    (repository / "app.py").write_text(f"\n\nKEY = '{first}'\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "begin")
    brought = git(repository, "rev-parse", "HEAD")
    (repository / "app.py").write_text("KEY = os.environ\n")
    git(repository, "commit", "-qam", f"take out\n\n{said}")
    message = git(repository, "rev-parse", "HEAD")
    (repository / "lost").write_text(gone)
    lost = git(repository, "hash-object", "-w", "lost")
    (repository / "lost").unlink()
    assert run("scan", str(repository), "--keyspace-file", file).exit_code == 0
    done = run("scan", "--git", str(repository), "--keyspace-file", file)
    assert done.exit_code == 1
    lines = {line.partition(" th_ings")[0] for line in done.stdout.splitlines()}
    places = {re.sub(r":\d+:$", "", line) for line in lines}
    assert places == {
        f"{brought[:12]}:app.py",
        f"commit {message[:12]}",
        f"object {lost[:12]}, to which no branch leads",
    }
    assert f"{brought[:12]}:app.py:3: th_ings_live_…{first[-4:]} of things" in done.stdout


def test_a_scanned_repository_gets_no_program_of_its_own_run(
    run: Run, file: str, repository: Path, tmp_path: Path
) -> None:
    ran, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(
        f"#!/bin/sh\ntouch '{ran}'\ncat >/dev/null\necho -----BEGIN PGP SIGNATURE-----\n"
        "printf '\\n[GNUPG:] SIG_CREATED \\n' >&2\n"
    )
    program.chmod(0o755)
    (repository / "app.py").write_text(key())
    git(repository, "config", "gpg.program", str(program))
    git(repository, "config", "log.showSignature", "true")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-S", "-m", "signed")
    ran.unlink()
    git(repository, "log")
    ran.unlink()  # so this repository would have its program run
    assert run("scan", "--git", str(repository), "--keyspace-file", file).exit_code == 1
    assert not ran.exists()


def test_what_is_no_repository_is_said(run: Run, file: str, tmp_path: Path) -> None:
    done = run("scan", "--git", str(tmp_path), "--keyspace-file", file, GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    assert done.exit_code == 2
    assert "not a git repository" in done.stderr


# --- rules for other tools --------------------------------------------------------------------------------------------

RE2_LACKS = re.compile(r"\(\?[=!<P>]|\\[1-9]|\(\?>|[*+?}]\+")
"""Look-around, back-references, atomic groups, possessive quantifiers."""


def test_rules_for_gitleaks_find_real_keys_and_are_of_re2(run: Run, file: str) -> None:
    words = [
        word
        for name in ("aiia", "faction", "factorythread", "fegura", "invicti")
        for word in ("--keyspace-file", str(EXAMPLES / f"{name}.yaml"))
    ]
    done = run("scan", "--rules", "gitleaks", "--keyspace-file", file, *words, DOORWARD_TARGET="127.0.0.1:1")
    assert done.exit_code == 0
    rules = {rule["id"]: rule for rule in tomllib.loads(done.stdout)["rules"]}
    assert {"doorward-things-opaque", "doorward-things-old", "doorward-faction-uuid", "doorward-invicti-jwt"} <= set(
        rules
    )
    for rule in rules.values():
        assert not RE2_LACKS.search(rule["regex"])
        assert all(int(count) <= 1000 for count in re.findall(r"\{(\d+)", rule["regex"]))
        assert all(int(count) <= 1000 for count in re.findall(r",(\d+)\}", rule["regex"]))
        assert rule["secretGroup"] == 1
    text = key(environment="test")
    things = rules["doorward-things-opaque"]
    match = re.search(things["regex"], f"a='{text}'")
    assert match is not None
    assert match[1] == text
    assert all(word in text for word in things["keywords"])
    assert not re.search(things["regex"], text[:-1])
    assert not re.search(things["regex"], text.replace("test", "prod"))
    uuid = mint_uuid(bytes(range(16))).reveal()
    faction = rules["doorward-faction-uuid"]
    for line in BESIDE:
        match = re.search(faction["regex"], line.format(uuid))
        assert match is not None
        assert match[1] == uuid
        assert any(word in line.lower() for word in faction["keywords"])
