"""The API version that a request speaks: the pinned one, unless its header names another that there is."""

from __future__ import annotations

import pytest

from doorward_server.core.api_versions import ApiVersions, compile_api_versions

VERSIONS = compile_api_versions({"header": "Fegura-Version", "versions": ["2026-02-01", "2026-08-01"]}, "2026-02-01")
LATER = ("fegura-VERSION", "2026-08-01")


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ([], "2026-02-01"),
        ([LATER], "2026-08-01"),
        ([LATER, LATER], "2026-08-01"),
        ([LATER, ("Fegura-Version", "2026-02-01")], "2026-02-01"),
        ([("Fegura-Version", "1999-01-01")], "2026-02-01"),
        ([("Fegura-Version", "")], "2026-02-01"),
        ([("Fegura-Version", " 2026-08-01")], "2026-02-01"),
        ([("Other-Version", "2026-08-01")], "2026-02-01"),
    ],
)
def test_the_header_counts_if_it_names_one_version_that_there_is(headers: list[tuple[str, str]], version: str) -> None:
    assert VERSIONS.effective(headers, "2026-02-01") == version


def test_a_keyspace_that_declares_no_header_knows_only_what_is_pinned() -> None:
    assert compile_api_versions(None, "2026-02-01") == ApiVersions()
    assert ApiVersions().effective([LATER], "2026-02-01") == "2026-02-01"
    assert ApiVersions().effective([LATER], "") == ""
