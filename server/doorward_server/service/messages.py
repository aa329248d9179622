"""Reasons in words."""

from __future__ import annotations

from doorward_server.core.reasons import Reason

MESSAGES = {
    Reason.ALLOWED: "Allowed.",
    Reason.CREDENTIAL_MISSING: "No API key was sent where one is expected.",
    Reason.CREDENTIAL_AMBIGUOUS: "Several different API keys were sent. Send exactly one.",
    Reason.CREDENTIAL_MALFORMED: "This is not a complete API key. Check that it was copied whole and unchanged.",
    Reason.KEY_UNKNOWN: "This API key is not known.",
    Reason.KEY_EXPIRED: "This API key has expired.",
    Reason.KEY_NOT_YET_VALID: "This API key is not valid yet.",
    Reason.KEY_REVOKED: "This API key was revoked.",
    Reason.KEY_DISABLED: "This API key is disabled.",
    Reason.SECRET_SUPERSEDED: "This API key was rotated, and its old text no longer works.",
    Reason.OWNER_DISABLED: "The owner of this API key is disabled.",
    Reason.ORGANIZATION_DISABLED: "The organization of this API key is disabled.",
    Reason.ORGANIZATION_MISMATCH: "This API key belongs to another organization.",
    Reason.ENVIRONMENT_MISMATCH: "This API key is for another environment.",
    Reason.NETWORK_NOT_ALLOWED: "This API key must not be used from this address.",
    Reason.SCOPE_INSUFFICIENT: "This API key lacks the scope for this.",
    Reason.OWNER_PERMISSION_INSUFFICIENT: "The owner of this API key may not do this.",
    Reason.RESOURCE_NOT_GRANTED: "This API key is not granted this resource.",
    Reason.RELATION_MISSING: "The owner of this API key is not connected to this resource in the way it takes.",
    Reason.CONDITION_FALSE: "A condition that this depends on does not hold.",
    Reason.CONTEXT_MISSING: "A fact that this depends on is not known.",
    Reason.DENIED_BY_RULE: "A rule forbids this.",
    Reason.RATE_LIMITED: "Too many requests. Wait a moment and try again.",
    Reason.QUOTA_EXCEEDED: "The quota for this is used up for now.",
    Reason.CREDITS_EXHAUSTED: "There are not enough credits left for this.",
}
"""Each reason in words that an end user may read."""
