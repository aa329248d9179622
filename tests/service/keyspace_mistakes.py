"""Every kind of mistake in a keyspace file: what is written instead of what, and what must be said about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PRESS = str(re.findall(r"^```yaml\n(.*?)^```$", (DOCS / "keyspaces.md").read_text("utf-8"), re.S | re.M)[0])
"""The file in docs/keyspaces.md, which uses every word."""


@dataclass(frozen=True)
class Mistake:
    """*new* stands where *old* is in `PRESS`; the error names *field* and says *rule*, on the line with *at*."""

    old: str
    new: str
    field: str
    rule: str
    at: str = ""

    @property
    def source(self) -> str:
        assert PRESS.count(self.old) == 1, self.old
        return PRESS.replace(self.old, self.new)

    @property
    def line(self) -> int:
        """The number of the line at fault, from 1; 0 if *at* is "file"."""
        if self.at == "file":
            return 0
        wanted = self.at or self.new.strip().splitlines()[0]
        (number,) = [i for i, line in enumerate(self.source.splitlines(), 1) if wanted in line]
        return number


def _case(ask: str, expect: str = "ALLOW", given: str = "{key: {scopes: [reader]}}") -> str:
    return f"tests:\n  - name: mistaken\n    given: {given}\n    ask: {ask}\n    expect: {expect}\n"


def _test(ask: str, field: str, rule: str, *, expect: str = "ALLOW", at: str = "") -> Mistake:
    return Mistake(_TESTS, _case(ask, expect), f"tests[0].{field}", rule, at or f"ask: {ask}")


def _given(given: str, field: str, rule: str) -> Mistake:
    new = _case("{action: issues:list}", given=given)
    return Mistake(_TESTS, new, f"tests[0].given.{field}", rule, f"given: {given}")


_TESTS = PRESS[PRESS.index("tests:") :]
_LIMITS = "    per-minute: {per: key, limit: 60, window: 1m}\n"
_READ = '      - actions: ["*:get", "*:list"]\n'
_ALERT = "  near: {when: limit_nearly_used, percent: [80, 95]}\n"
_ROUTE = '  - {match: "POST /drafts", action: drafts:create}\n'
_HTTP = "  denied:\n"
_CONDITION = "        condition: context.mfa\n"
_MAPPING = "    drafts: {locked: bool}\n"

MISTAKES: dict[str, Mistake] = {
    # --- YAML
    "no YAML": Mistake("usage: {keep: 400d}", "usage: {keep: 400d}}", "file", "is not valid YAML"),
    "control character": Mistake("prefix: press ", "prefix: \x07press ", "file", "is not valid YAML", "file"),
    "alias": Mistake("[live, test]", "&e [live, test]\nx: *e", "file", "must not use YAML aliases", "file"),
    "too deep": Mistake("usage: {keep: 400d}", "usage: " + "[" * 30, "file", "is nested more than 20 levels deep"),
    "too long": Mistake("usage: {keep: 400d}", "#" * 140_000, "file", "must have at most 128 KiB", "file"),
    "key that is a list": Mistake(
        "usage: {keep: 400d}", "usage: {[a]: 400d}", "usage", "has a key that is no plain text"
    ),
    "word twice": Mistake("inherit: true ", "prefix: x\ninherit: true ", "prefix", "stands here twice"),
    "YAML tag": Mistake(
        "usage: {keep: 400d}", "usage: {keep: !!python/name:os.system x}", "usage.keep", "is not a plain YAML value"
    ),
    # --- shape
    "unknown word": Mistake(
        "inherit: true ",
        "colour: red\ninherit: true ",
        "colour",
        "is not a word that can stand here; there are alerts, algorithm, api_version",
    ),
    "unknown word inside": Mistake(
        "scopes: {min: 0, max: 5}", "scopes: {least: 0}", "keys.scopes.least", "there are environments, max, min"
    ),
    "missing word": Mistake("keyspace: press ", "# ", "keyspace", "is required", "display_name:"),
    "missing word inside": Mistake(
        _READ, "      - effect: DENY   # nothing\n", "roles.reader.rules[0].actions", "is required", "# nothing"
    ),
    "text that looks like a date": Mistake(
        '"2026-02-01"       #',
        "2026-02-01 #",
        "keys.api_version",
        "must be text (in quotes, if it looks like something else)",
    ),
    "no list": Mistake("authenticated: [status:get]", "authenticated: status:get", "authenticated", "must be a list"),
    "no mapping": Mistake("usage: {keep: 400d}", "usage: 400d", "usage", "must be a mapping, word: value"),
    "no whole number": Mistake("{min: 0, max: 5}", "{min: few}", "keys.scopes.min", "must be a whole number"),
    "no truth value": Mistake("inherit: true ", "inherit: 'yes' ", "inherit", "must be true or false"),
    "none of the words": Mistake(
        "organization: key ", "organization: any ", "organization", "must be 'required' or 'key'"
    ),
    "too small": Mistake("{min: 0, max: 5}", "{min: -1}", "keys.scopes.min", "must be at least 0"),
    "too large": Mistake("{min: 0, max: 5}", "{min: 201}", "keys.scopes.min", "must be at most 200"),
    "empty list": Mistake(
        "environments: [live, test]", "environments: []", "environments", "must have at least 1 entries"
    ),
    "neither of two shapes": Mistake(
        "length: [32, 40]", "length: long", "legacy[0].length", "must be a whole number or a list"
    ),
    "wrong inside one of two shapes": Mistake(
        "{name: editor, on: parent}",
        "{name: editor, on: top}",
        "roles.chief.rules[0].relation.on",
        "must be 'resource' or 'parent'",
    ),
    # --- names
    "name of the keyspace": Mistake(
        "keyspace: press ", "keyspace: Press! ", "keyspace", "'Press!' must be of the form"
    ),
    "no prefix": Mistake("prefix: press  ", "#\n#  ", "prefix", "'' must be of the form", "keyspace: press"),
    "prefix of another format": Mistake(
        "format: opaque ", "format: uuid ", "prefix", "goes with the format 'opaque'", "prefix: press"
    ),
    "environment twice": Mistake(
        "environments: [live, test]", "environments: [live, live]", "environments[1]", "'live' stands here twice"
    ),
    "verb": Mistake("issues: [get, list]", "issues: [get!]", "types.issues[0]", "'get!' must be of the form"),
    "mask without last4": Mistake('mask: "{prefix}_…{last4}"', "mask: secret", "mask", "must contain {last4}"),
    # --- credentials
    "header and query": Mistake(
        "- {query: api_key}",
        "- {query: api_key, header: X-Key}",
        "credentials[1]",
        "must have either 'header' or 'query'",
    ),
    "scheme in a query": Mistake(
        "- {query: api_key}", "- {query: api_key, scheme: Bearer}", "credentials[1].scheme", "goes with 'header'"
    ),
    "name of a header": Mistake(
        "- {query: api_key}", "- {header: X Key}", "credentials[1].header", "'X Key' must be of the form"
    ),
    # --- formats
    "legacy length": Mistake(
        "length: [32, 40]", "length: [40, 32]", "legacy[0].length", "must be a number or [shortest"
    ),
    "legacy lookup": Mistake(
        "entropy_bits: 128}",
        "entropy_bits: 128, lookup: 33}",
        "legacy[0].lookup",
        "must not be longer than the shortest text",
    ),
    "legacy entropy": Mistake("entropy_bits: 128}", "entropy_bits: 999}", "legacy[0].entropy_bits", "hold at most 128"),
    "legacy that cannot be told apart": Mistake(
        "entropy_bits: 128}",
        'entropy_bits: 128}\n  - {name: weak, prefix: "old-", alphabet: hex, length: 32, entropy_bits: 9}',
        "legacy[1]",
        "a text of it may be of 'old' too",
        "name: weak",
    ),
    # --- guard rails
    "more than the most": Mistake(
        "{min: 0, max: 5}", "{min: 6, max: 5}", "keys.scopes.max", "at least keys.scopes.min, 6"
    ),
    "span": Mistake("rotation: {every: 90d}", "rotation: {every: soon}", "keys.rotation.every", "must be a span like"),
    "lifetime too long": Mistake(
        "maximum: 1y", "maximum: 90d", "keys.expiry.allowed", "must not be longer than keys.expiry.maximum", "expiry:"
    ),
    "default too long": Mistake(
        "{allowed: [30d, 1y], maximum: 1y, default: 30d}",
        "{maximum: 1y, default: 2y}",
        "keys.expiry.default",
        "must not be longer than keys.expiry.maximum",
    ),
    "default not allowed": Mistake(
        "default: 30d}", "default: 31d}", "keys.expiry.default", "must be one of keys.expiry.allowed"
    ),
    "expiry of keys without": Mistake(
        "{allowed: [30d, 1y], maximum: 1y, default: 30d}",
        "{need: forbidden, default: 30d}",
        "keys.expiry.default",
        "goes with keys that expire",
    ),
    "ceiling without inheriting": Mistake(
        "inherit: true ", "inherit: false ", "ceilings", "needs 'inherit: true'", "ceilings:"
    ),
    "owners forbidden and needed": Mistake(
        "owner: optional", "owner: none", "ceilings", "needs keys with owners", "ceilings:"
    ),
    "type of keys": Mistake(
        "{live: production}", "{live: partner}", "keys.default_type.live", "there is no type 'partner'"
    ),
    "environment of the rails": Mistake(
        "{live: production}", "{prod: production}", "keys.default_type.prod", "there is no environment 'prod'"
    ),
    # --- what conditions and relations stand on
    "parent of an unknown type": Mistake(
        "parents: {drafts: issues}", "parents: {drafts: books}", "parents.drafts", "there is no type 'books'"
    ),
    "relation's name": Mistake("drafts: [author]", "drafts: [is.author]", "relations.drafts[0]", "must be of the form"),
    "attribute's type": Mistake("{plan: string}", "{plan: text}", "attributes.organization.plan", "must be 'string'"),
    "attribute that is there anyway": Mistake(
        "{freelance: bool}",
        "{email: string, freelance: bool}",
        "attributes.principal.email",
        "every principal has it already",
    ),
    "attribute named like a word of CEL": Mistake(
        "{freelance: bool}", "{in: bool, freelance: bool}", "attributes.principal.in", "is a word of CEL"
    ),
    "metadata that are no text": Mistake(
        "key: {team: string}", "key: {team: int}", "attributes.key.team", "a key's metadata are texts"
    ),
    "one attribute, two types": Mistake(
        _MAPPING,
        "    drafts: {locked: bool}\n    issues: {locked: string}\n",
        "attributes.resource.issues.locked",
        "one name has one type",
        "issues: {locked",
    ),
    # --- roles
    "authenticated action": Mistake(
        "authenticated: [status:get]",
        "authenticated: [status:put]",
        "authenticated[0]",
        "'status:put' is not declared under types",
    ),
    "unknown role included": Mistake(
        "includes: [reader] ", "includes: [readers] ", "roles.writer.includes[0]", "there is no role 'readers'"
    ),
    "circle": Mistake(
        "    description: Reads everything.\n",
        "    includes: [writer]\n",
        "roles.writer.includes",
        "goes round in a circle: reader → writer → reader",
        "includes: [reader]",
    ),
    "unknown action": Mistake(
        _READ, '      - actions: ["*:erase"]\n', "roles.reader.rules[0].actions[0]", "'*:erase' matches no permission"
    ),
    "pattern": Mistake(
        'resources: ["drafts/*"]',
        'resources: ["drafts/x*"]',
        "roles.writer.rules[1].resources[0]",
        "can never match: '*' stands for a whole segment",
    ),
    "pattern of an unknown type": Mistake(
        'resources: ["drafts/*"]',
        'resources: ["books/*"]',
        "roles.writer.rules[1].resources[0]",
        "there is no type 'books'",
    ),
    "relation's place": Mistake(
        "relation: author ",
        "relation: top.author ",
        "roles.writer.rules[1].relation",
        "must be a relation, or parent. and a relation",
    ),
    "relation that is not declared": Mistake(
        "relation: author ",
        "relation: reader ",
        "roles.writer.rules[1].relation",
        "can never hold: no relation 'reader' is declared",
    ),
    "condition that reads what there is not": Mistake(
        _CONDITION, "        condition: context.moon\n", "roles.chief.rules[0].condition", "is not a condition"
    ),
    "condition that is not boolean": Mistake(
        _CONDITION, "        condition: context.client_ip\n", "roles.chief.rules[0].condition", "must be true or false"
    ),
    "condition with a comprehension": Mistake(
        _CONDITION,
        "        condition: principal.groups.all(g, g == 'x')\n",
        "roles.chief.rules[0].condition",
        "must not go through lists",
    ),
    # --- API versions
    "header of versions": Mistake(
        "header: Press-Version", "header: Press Version", "api_version.header", "must be of the form"
    ),
    "pinned version that there is not": Mistake(
        'versions: ["2026-02-01", "2026-08-01"]',
        'versions: ["2026-08-01"]',
        "keys.api_version",
        "is not one of api_version.versions",
        'api_version: "2026-02-01"',
    ),
    # --- HTTP
    "reason that there is not": Mistake(
        _HTTP,
        "  forbidden: {status: 403}\n  denied:\n",
        "http.forbidden",
        "is neither a reason nor one of denied, allowed",
    ),
    "denial that looks allowed": Mistake(
        _HTTP, "  limited: {status: 200}\n  denied:\n", "http.limited.status", "must be 400 to 499 for a denial"
    ),
    "body of 9 KiB": Mistake(
        'body: "Nothing here."',
        f"body: {['y' * 1999] * 5}",
        "http.RESOURCE_NOT_GRANTED.body",
        "must have at most 8 KiB",
        "RESOURCE_NOT_GRANTED:",
    ),
    "body that JSON cannot say": Mistake(
        'body: "Nothing here."', "body: {since: 2026-02-01}", "http.RESOURCE_NOT_GRANTED.body", "what JSON can say"
    ),
    "name of an answer's header": Mistake(
        "{WWW-Authenticate: 'Bearer",
        "{WWW Authenticate: 'Bearer",
        "http.unauthenticated.headers.WWW Authenticate",
        "is not the name of an HTTP header",
        "headers: {WWW",
    ),
    "header of the server": Mistake(
        "{WWW-Authenticate: 'Bearer",
        "{Content-Length: 'Bearer",
        "http.unauthenticated.headers.Content-Length",
        "is for the HTTP server to send",
        "headers: {Content",
    ),
    "header with a line break": Mistake(
        "'Bearer realm=\"press\"'",
        '"a\\r\\nb: c"',
        "http.unauthenticated.headers.WWW-Authenticate",
        "must be 1 to 1,000 visible ASCII characters",
        "headers: {WWW",
    ),
    "message in a header": Mistake(
        "'Bearer realm=\"press\"'",
        "'{message}'",
        "http.unauthenticated.headers.WWW-Authenticate",
        "must not hold {message}",
        "headers: {WWW",
    ),
    # --- limits, alerts, the log
    "name of a limit": Mistake(
        _LIMITS, "    Per Minute: {limit: 60, window: 1m}\n", "limits.windows.Per Minute", "must be of the form"
    ),
    "duration": Mistake(
        _LIMITS,
        "    per-minute: {limit: 60, window: 1y}\n",
        "limits.windows.per-minute.window",
        "must be a duration like 30s",
    ),
    "cost of an unknown action": Mistake(
        '{"drafts:publish": 5}', '{"drafts:burn": 5}', "limits.costs.drafts:burn", "matches no permission"
    ),
    "alert without what it needs": Mistake(
        _ALERT,
        "  near: {when: limit_nearly_used}\n",
        "alerts.near.percent",
        "is required with 'when: limit_nearly_used'",
    ),
    "alert with what it has no use for": Mistake(
        _ALERT, "  near: {when: leaked, count: 3}\n", "alerts.near.count", "does not go with 'when: leaked'"
    ),
    "alert about limits that there are not": Mistake(
        PRESS[PRESS.index("limits:") : PRESS.index("credits:")], "", "alerts.near", "there are no limits", "  near:"
    ),
    "credits per key and resource": Mistake(
        "  per: organization\n",
        "  per: key_and_resource\n",
        "credits.per",
        "must be 'key', 'owner' or 'organization'",
        "  per: key_and_resource",
    ),
    "negative credits": Mistake("  initial: 1000\n", "  initial: -1\n", "credits.initial", "must be at least 0"),
    "refill of nothing": Mistake(
        "amount: 1000, period: 30d, mode: add, most: 3000",
        "amount: 0, period: 30d",
        "credits.refill.amount",
        "must be at least 1",
        "  refill:",
    ),
    "refill without an end": Mistake(
        "amount: 1000, period: 30d, mode: add, most: 3000",
        "amount: 1000",
        "credits.refill.period",
        "is required",
        "  refill:",
    ),
    "most of what is reset": Mistake(
        "mode: add, most: 3000", "mode: reset, most: 3000", "credits.refill.most", "goes with 'mode: add'", "  refill:"
    ),
    "price of an unknown action": Mistake(
        '"drafts:publish": 10,',
        '"drafts:burn": 10,',
        "credits.costs.drafts:burn",
        "matches no permission",
        '  costs: {"drafts:burn',
    ),
    "alert about a rotation that is never due": Mistake(
        "  rotation: {every: 90d}\n", "", "alerts.overdue", "keys.rotation does not say", "  overdue:"
    ),
    "sample of all": Mistake(
        "record: sampled, sample: 0.01",
        "record: all, sample: 0.01",
        "decision_log.sample",
        "goes with 'record: sampled'",
    ),
    "sampled into the store": Mistake("to: [stdout]", "to: [store]", "decision_log.to", "only 'record: all'"),
    "target twice": Mistake("to: [stdout]", "to: [stdout, stdout]", "decision_log.to[1]", "stands here twice"),
    # --- routes
    "method": Mistake(
        _ROUTE, "  - {match: FETCH /drafts, action: drafts:create}\n", "routes[1].match", "must begin with one of"
    ),
    "path": Mistake(_ROUTE, "  - {match: POST drafts, action: drafts:create}\n", "routes[1].match", "begins with '/'"),
    "segment of a path": Mistake(
        _ROUTE,
        '  - {match: "POST /x{id}", action: drafts:create}\n',
        "routes[1].match",
        "neither plain text nor one {name}",
    ),
    "rest before the end": Mistake(
        _ROUTE,
        '  - {match: "POST /{a...}/b", action: drafts:create}\n',
        "routes[1].match",
        "has '{a...}' before its end",
    ),
    "name twice in a path": Mistake(
        _ROUTE, '  - {match: "POST /{a}/{a}", action: drafts:create}\n', "routes[1].match", "has {a} twice"
    ),
    "same route twice": Mistake(
        _ROUTE,
        '  - {match: "GET /drafts/{x}", action: drafts:list}\n',
        "routes[1].match",
        "matches the same requests as routes[0]",
    ),
    "action of a route": Mistake(
        _ROUTE, '  - {match: "POST /a", action: drafts:burn}\n', "routes[1].action", "is not declared under types"
    ),
    "type of a route": Mistake(
        _ROUTE,
        '  - {match: "POST /a", action: drafts:create, resource: books/1}\n',
        "routes[1].resource",
        "there is no type 'books'",
    ),
    "resource that the path does not name": Mistake(
        _ROUTE,
        '  - {match: "POST /{a}", action: drafts:create, resource: "drafts/{b}"}\n',
        "routes[1].resource",
        "names {b}, which the path does not have",
    ),
    "segment of a route's resource": Mistake(
        _ROUTE,
        '  - {match: "POST /{a}", action: drafts:create, resource: "drafts/x{a}"}\n',
        "routes[1].resource",
        "neither plain text nor one {name}",
    ),
    # --- tests
    "too many questions": Mistake(
        _TESTS,
        "tests:\n" + f"  - {{name: n, table: {{{', '.join(f'a:b {i}: A' for i in range(1000))}}}}}\n" * 3,
        "tests",
        "must ask at most 2,000 questions",
        "tests:",
    ),
    "test without a name": Mistake(_TESTS, "tests:\n  - expect: ALLOW\n", "tests[0].name", "is required", "- expect"),
    "test that expects nothing": Mistake(
        _TESTS, "tests:\n  - name: mistaken\n", "tests[0]", "must have either 'expect' or 'table'", "- name: mistaken"
    ),
    "table and action": Mistake(
        _TESTS,
        "tests:\n  - name: x\n    ask: {action: status:get}\n    table: {status:get: ALLOW}\n",
        "tests[0].ask",
        "must leave action and resource to the table",
        "ask: {action: status:get}",
    ),
    "expected reason": _test(
        "{action: issues:list}", "expect", "'MAYBE' is no reason", expect="MAYBE", at="expect: MAYBE"
    ),
    "expected role": _test(
        "{action: issues:list}", "expect", "there is no role 'boss'", expect="{role: boss}", at="expect: {role"
    ),
    "asked action": _test("{action: issues:burn}", "ask", "the action 'issues:burn' is not declared"),
    "asked resource": _test("{action: issues:get, resource: books/1}", "ask.resource", "there is no type 'books'"),
    "asked path": _test("{action: issues:get, resource: issues//1}", "ask.resource", "must not have empty segments"),
    "asked environment": _test(
        "{action: issues:list, environment: prod}", "ask.environment", "there is no environment"
    ),
    "asked address": _test("{action: issues:list, client_ip: 10.0.0.300}", "ask.client_ip", "must be an IPv4 or IPv6"),
    "asked time": _test("{action: issues:list, at: noon}", "ask.at", "must be an instant like"),
    "asked context": _test("{action: issues:list, context: {moon: full}}", "ask.context.moon", "is not declared"),
    "asked attribute": _test(
        "{action: drafts:get, resource: drafts/1, attributes: {locked: 3}}",
        "ask.attributes.locked",
        "must be of the type bool",
    ),
    "asked parent": _test(
        "{action: drafts:get, resource: drafts/1, parent: drafts/2}",
        "ask.parent",
        "'drafts' is not a parent of 'drafts'",
    ),
    "asked relation": _test(
        "{action: drafts:get, resource: drafts/1, relations: [parent.editor]}",
        "ask.relations[0]",
        "must be like assigned",
    ),
    "asked relation's name": _test(
        "{action: drafts:get, resource: drafts/1, relations: [uncle]}",
        "ask.relations[0]",
        "'uncle' is not a relation of 'drafts'",
    ),
    "no key to be found": Mistake(
        _TESTS,
        _case("{action: issues:list, http: {}}", given="{principal: {}}"),
        "tests[0].ask.http",
        "there is no key in given",
        "ask: {action: issues:list, http",
    ),
    "given role": _given("{key: {scopes: [boss]}}", "key.scopes[0]", "there is no role 'boss'"),
    "given environment": _given("{key: {environment: prod}}", "key.environment", "there is no environment 'prod'"),
    "given network": _given("{key: {allowed_cidrs: [ten]}}", "key.allowed_cidrs[0]", "'ten' does not appear to be"),
    "given pattern": _given(
        "{key: {bindings: [{role: reader, resources: [x*]}]}}", "key.bindings[0].resources[0]", "can never match"
    ),
    "given parent": _given(
        "{resources: {drafts/1: {parent: drafts/2}}}",
        "resources.drafts/1.parent",
        "'drafts' is not a parent of 'drafts'",
    ),
    "given relation": _given(
        "{relations: [drafts/1#author]}", "relations[0]", "must be like assessments/42#assigned@user"
    ),
    "given ceiling": Mistake(
        "ceilings: [list, owner] ",
        "ceilings: [list] ",
        "tests[1].given.key.ceiling",
        "'owner' is not among the ceilings",
        "key: {ceiling: owner}",
    ),
}
