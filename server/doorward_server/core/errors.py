"""What can go wrong, in the words of the domain.

A denial is not in here: it is a `Decision`. An exception means that no answer, or no change, was made. Each class is
one `ErrorReason` of the contract; how it looks on the wire stands in one table, `doorward_server.wire.errors`.
Messages and metadata are shown to callers: they hold no secret and no text of an inner exception.
"""

from __future__ import annotations

from typing import ClassVar


class DoorwardError(Exception):
    """The root of all of them: `reason` names the class, `metadata` holds every value that the message mentions."""

    reason: ClassVar[str]

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class InvalidField(DoorwardError):
    """A field of the request breaks a rule; nothing was changed."""

    reason = "INVALID_FIELD"

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}.", field=field, rule=rule)


class UnknownReference(DoorwardError):
    """A field names something that does not exist, e.g. a role that the keyspace does not declare."""

    reason = "UNKNOWN_REFERENCE"

    def __init__(self, field: str, type: str, id: str, known: str = "") -> None:
        hint = f" Known: {known}." if known else ""
        super().__init__(f"{field}: there is no {type} {id!r}.{hint}", field=field, type=type, id=id)


class PageTokenInvalid(DoorwardError):
    """The page token is foreign, damaged, or belongs to another filter."""

    reason = "PAGE_TOKEN_INVALID"

    def __init__(self) -> None:
        rule = "must be the next_page_token of the page before, with the same filter"
        super().__init__(f"page_token: {rule}. Begin again without one.", field="page_token", rule=rule)


class RequestIdReused(DoorwardError):
    """The request_id stands for another request of this caller."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self) -> None:
        rule = "was used within the last 24 hours for a request with other content"
        super().__init__(f"request_id: {rule}. Use a new one.", field="request_id", rule=rule)


class KeyspaceInvalid(DoorwardError):
    """A keyspace file breaks a rule of its schema. `line` counts from 1; 0 if the whole file is at fault."""

    reason = "KEYSPACE_INVALID"

    def __init__(self, field: str, rule: str, line: int = 0) -> None:
        where = f"line {line}: " if line else ""
        super().__init__(f"{where}{field}: {rule}.", field=field, rule=rule, line=str(line))
        self.field, self.rule, self.line = field, rule, line


class CallerUnauthenticated(DoorwardError):
    """The caller's own key is missing or does not hold. `decision` is the reason that Authorize would give."""

    reason = "CALLER_UNAUTHENTICATED"

    def __init__(self, decision: str, message: str) -> None:
        super().__init__(
            f"Doorward does not accept your own key: {message} Send a key of the keyspace 'doorward' as "
            "'authorization: Bearer …'.",
            decision=decision,
        )


class CallerForbidden(DoorwardError):
    """The caller may not do this, whether or not the thing exists."""

    reason = "CALLER_FORBIDDEN"

    def __init__(self, permission: str, resource: str, decision: str, who: str = "Your key", *, why: str = "") -> None:
        super().__init__(
            f"{who} may not {permission} on {resource}: {why or decision}.",
            permission=permission,
            resource=resource,
            decision=decision,
        )


class GrantForbidden(DoorwardError):
    """The caller would hand out a role that it does not hold itself and may not grant."""

    reason = "GRANT_FORBIDDEN"

    def __init__(self, keyspace: str, role: str, resource: str) -> None:
        super().__init__(
            f"You cannot grant the role {role!r} of {keyspace!r}: you do not hold it yourself on all of these "
            f"resources for as long, nor have roles:grant on {resource}.",
            keyspace=keyspace,
            role=role,
        )


class NotFound(DoorwardError):
    """There is no such thing, or it was deleted."""

    reason = "NOT_FOUND"

    def __init__(self, type: str, id: str) -> None:
        super().__init__(f"There is no {type} {id!r}.", type=type, id=id)


class AlreadyExists(DoorwardError):
    """The id is taken, by something live or something deleted: ids are never used twice."""

    reason = "ALREADY_EXISTS"

    def __init__(self, type: str, id: str) -> None:
        super().__init__(f"The {type} id {id!r} is taken; an id is not free again after deletion.", type=type, id=id)


class KeyIsRevoked(DoorwardError):
    """Revocation is permanent."""

    reason = "KEY_IS_REVOKED"

    def __init__(self, id: str) -> None:
        super().__init__(f"The key {id!r} is revoked, and that is permanent. Create a new key.", type="key", id=id)


class KeyIsExpired(DoorwardError):
    """The key is past its expiry."""

    reason = "KEY_IS_EXPIRED"

    def __init__(self, id: str) -> None:
        super().__init__(
            f"The key {id!r} has expired. Set a later expires_at first, or create a new key.", type="key", id=id
        )


class OrganizationIsDisabled(DoorwardError):
    """The organization is disabled."""

    reason = "ORGANIZATION_IS_DISABLED"

    def __init__(self, id: str) -> None:
        super().__init__(f"The organization {id!r} is disabled. Enable it first.", type="organization", id=id)


class PrincipalIsDisabled(DoorwardError):
    """The principal is disabled."""

    reason = "PRINCIPAL_IS_DISABLED"

    def __init__(self, id: str) -> None:
        super().__init__(f"The principal {id!r} is disabled. Enable it first.", type="principal", id=id)


class BuiltIn(DoorwardError):
    """Doorward's own parts are not changed this way."""

    reason = "BUILT_IN"

    def __init__(self, type: str, id: str) -> None:
        super().__init__(f"The {type} {id!r} is part of Doorward itself and cannot be changed so.", type=type, id=id)


class Immutable(DoorwardError):
    """A setting is fixed from the first apply on."""

    reason = "IMMUTABLE"

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field} cannot change: {why}.", field=field)


class KeysStranded(DoorwardError):
    """Another version of a keyspace's file would take from keys or bindings what they hold, or what they are."""

    reason = "KEYS_STRANDED"

    def __init__(self, field: str, why: str, who: str, others: int) -> None:
        more = f" There are {others} more such changes; a dry run tells all." if others else ""
        super().__init__(
            f"{field}: {why}, and {who} would be stranded. Nothing was changed.{more} Change them first, or apply with "
            "force if that is meant.",
            field=field,
            who=who,
        )


class KeyspaceTestsFailed(DoorwardError):
    """Tests in a keyspace file come out otherwise than it says. `line` counts from 1."""

    reason = "KEYSPACE_TESTS_FAILED"

    def __init__(self, failed: int, asked: int, test: str, line: int, problem: str) -> None:
        super().__init__(
            f"line {line}: the test {test!r} fails: {problem}. {failed} of {asked} questions are answered otherwise "
            "than expected. Nothing was changed.",
            test=test,
            line=str(line),
            failed=str(failed),
        )


class NotRecoverable(DoorwardError):
    """The text of this secret is not kept."""

    reason = "NOT_RECOVERABLE"

    def __init__(self, id: str, why: str) -> None:
        super().__init__(f"The text of the key {id!r} cannot be shown: {why}. Rotate the key.", type="key", id=id)


class CountMismatch(DoorwardError):
    """A filter finds another number of keys than the caller expected; nothing was changed."""

    reason = "COUNT_MISMATCH"

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"The filter finds {found:,} keys, not {expected:,}; nothing was ended. Look again with dry_run.",
            expected=str(expected),
            found=str(found),
        )


class ChainIsBroken(DoorwardError):
    """The audit log of an organization is not what was written. Somebody has changed the database."""

    reason = "CHAIN_IS_BROKEN"

    def __init__(self, organization: str, sequence: int) -> None:
        super().__init__(
            f"The audit log of {organization!r} does not hold at event {sequence}: it was changed in the database, or "
            "restored in part. Keep the database as it is, and compare it with a backup.",
            organization=organization,
            sequence=str(sequence),
        )


class TooManyActiveKeys(DoorwardError):
    """The owner has as many active keys as the keyspace allows."""

    reason = "TOO_MANY_ACTIVE_KEYS"

    def __init__(self, owner: str, limit: int) -> None:
        super().__init__(
            f"The owner {owner!r} has {limit:,} active keys, as many as this keyspace allows. End one first.",
            limit=str(limit),
        )


class GroupCycle(DoorwardError):
    """A group would be in itself."""

    reason = "GROUP_CYCLE"

    def __init__(self, path: str) -> None:
        super().__init__(f"A group cannot be in itself, also not by way of others: {path}.", path=path)


class RevisionNotReached(DoorwardError):
    """The store has not come as far as the caller wants the answer to be."""

    reason = "REVISION_NOT_REACHED"

    def __init__(self, wanted: int, reached: int) -> None:
        super().__init__(
            f"The store is at revision {reached}, before the {wanted} that was asked for: was it restored?",
            wanted=str(wanted),
            reached=str(reached),
        )


class EtagMismatch(DoorwardError):
    """Somebody else changed it in between."""

    reason = "ETAG_MISMATCH"

    def __init__(self, type: str, id: str) -> None:
        super().__init__(
            f"The {type} {id!r} was changed since you read it. Read it again, then decide again.", type=type, id=id
        )


class QuotaExceeded(DoorwardError):
    """A quota is used up."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, quota: str, limit: int) -> None:
        super().__init__(
            f"The quota {quota} of {limit:,} is used up. Delete what is not needed, or have the operator raise it.",
            quota=quota,
            limit=str(limit),
        )


class StoreUnavailable(DoorwardError):
    """The store could not be asked: nothing is known, so nothing is denied and nothing allowed."""

    reason = "STORE_UNAVAILABLE"

    def __init__(
        self,
        message: str = "The store cannot be reached. Try again; nothing was decided.",
        *,
        outcome_known: bool = True,
    ) -> None:
        super().__init__(message)
        self.outcome_known = outcome_known
        """False: what was asked for may have been done."""


class MayBeCharged(StoreUnavailable):
    """A call may have been charged that gets no answer: whoever tries it again may be charged again."""

    reason = "MAY_BE_CHARGED"

    def __init__(self) -> None:
        super().__init__(
            "The store went away while credits were taken for this call. They may be gone; nothing was decided. "
            "Trying it again may take them again.",
            outcome_known=False,
        )


class Overloaded(DoorwardError):
    """More work waits than can be done in time."""

    reason = "OVERLOADED"

    def __init__(self) -> None:
        super().__init__("Doorward has too much to do right now. Try again after a moment; nothing was decided.")


class Internal(DoorwardError):
    """A defect of Doorward. What happened is in the log, under `request`, and nowhere else."""

    reason = "INTERNAL"

    def __init__(self, request: str) -> None:
        super().__init__(
            f"Something went wrong inside Doorward. Its log has the details under request={request}.", request=request
        )
