"""Keys that another system handed out, as they are taken in: what is known of each, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from doorward.model import Ceiling, KeyBinding
from doorward.secret import Secret, sendable


class ImportOutcome(StrEnum):
    """What became of a row: the key is in, one with this external id was in already and stays, or a rule is broken."""

    UNKNOWN = "UNKNOWN"
    CREATED = "CREATED"
    EXISTS = "EXISTS"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRow:
    """One key to take in. What proves it does not print.

    Exactly one of `text`, `sha256` (64 hexadecimal digits, or base64) and `bcrypt` is given. With a hash, `lookup` is
    the part of the text that finds it, as the keyspace's legacy format says: always needed with bcrypt. Without
    `expires_at` the key never expires, also where new keys have a default; without `created_at` it was created now.
    """

    external_id: str
    """Its id in the other system, unique in organization and keyspace: what makes it safe to send a row again."""
    name: str
    text: Secret | str | None = field(default=None, repr=False)
    sha256: str | None = field(default=None, repr=False)
    bcrypt: str | None = field(default=None, repr=False)
    lookup: str = field(default="", repr=False)
    last4: str = ""
    """With a hash: the last four characters of the text, for display."""
    description: str = ""
    owner: str = ""
    environment: str = ""
    type: str = ""
    ceiling: Ceiling | None = None
    scopes: Sequence[str] = ()
    bindings: Sequence[KeyBinding] = ()
    allowed_cidrs: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    expires_at: datetime | None = None
    api_version: str = ""

    def __post_init__(self) -> None:
        if sum(proof is not None for proof in (self.text, self.sha256, self.bcrypt)) != 1:
            raise ValueError("give exactly one of text, sha256 and bcrypt")
        if isinstance(self.text, str):
            object.__setattr__(self, "text", Secret(self.text))
        for proof in (self.text, self.sha256, self.bcrypt, self.lookup):
            sendable(proof.reveal() if isinstance(proof, Secret) else proof or "")


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of one row. A rejected one has a reason, as `CallFailed.reason`, and the same in words."""

    external_id: str
    outcome: ImportOutcome
    key_id: str = ""
    """The key's id; empty unless it is in."""
    reason: str = ""
    message: str = ""
