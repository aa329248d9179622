"""Making secrets: the text in the keyspace's format, and what is stored of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from hashlib import sha256

import bcrypt
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from doorward_server.core.formats import Format, Presented, lookup_of, mint_uuid
from doorward_server.core.imported import last4_of
from doorward_server.core.keytext import ENTROPY_BYTES, SecretText, mint
from doorward_server.core.model import SECOND, Instant, Key, Sealed, Secret
from doorward_server.core.policy import Keyspace
from doorward_server.core.verify import Verifier
from doorward_server.service.ids import Random, new_id
from doorward_server.service.peppers import Keyring

PENDING = Verifier("bcrypt-sha256", 0, b"")
"""Stands for a slow verifier that is not made yet; never stored."""
_NONCE_BYTES = 12
_ROLES_LENGTH = 900
"""Of the roles in a JWT, as JSON: with the longest ids its payload stays below what `formats` recognizes."""


class Mint:
    """Makes secrets, seals and opens their texts, and signs JWT keys. Knows the pepper file, not the store."""

    def __init__(self, keyring: Keyring, random: Random, bcrypt_cost: int) -> None:
        self._keyring = keyring
        self._random = random
        self._cost = bcrypt_cost

    def secret(
        self, keyspace: Keyspace, key: Key, now: Instant, roles: Collection[str] = ()
    ) -> tuple[Secret, SecretText]:
        """Make a secret for *key*; a JWT tells *roles*. Takes up to a second of CPU where the hash is adaptive."""
        text, lookup = self._text(keyspace, key, now, roles)
        verifier = self.slow_verifier(text) if keyspace.adaptive else self._keyring.current.peppers.verifier(text)
        return self._kept(keyspace, key, text, lookup, verifier, text.reveal()[-4:], now), text

    def secret_of_text(self, keyspace: Keyspace, key: Key, known: Presented) -> Secret:
        """Return what to keep of an imported text. Its verifier is `PENDING` if only a slow one protects it."""
        slow = keyspace.adaptive or not known.sound
        verifier = PENDING if slow else self._keyring.current.peppers.verifier(known.secret)
        last4 = last4_of(known.secret)
        return self._kept(keyspace, key, known.secret, known.lookup, verifier, last4, key.created_at)

    def secret_of_hash(self, key: Key, lookup: str, verifier: Verifier, last4: str) -> Secret:
        """Return what to keep of a text of which only a hash is known: nothing to reveal."""
        return Secret(new_id("sec", self._random), lookup, verifier, last4, key.created_at)

    def _kept(
        self, keyspace: Keyspace, key: Key, text: SecretText, lookup: str, verifier: Verifier, last4: str, at: Instant
    ) -> Secret:
        id = new_id("sec", self._random)
        sealed = self._sealed(key, id, text) if keyspace.recoverable else None
        return Secret(id, lookup, verifier, last4, at, sealed=sealed)

    def _text(self, keyspace: Keyspace, key: Key, now: Instant, roles: Collection[str]) -> tuple[SecretText, str]:
        if keyspace.format is Format.OPAQUE:
            made = mint(keyspace.prefix, key.environment, self._random(ENTROPY_BYTES))
            return made.secret, made.lookup
        uuid = keyspace.format is Format.UUID
        text = mint_uuid(self._random(16)) if uuid else self._signed(keyspace, key, now, roles)
        return text, lookup_of(self._keyring.current.lookup, text.reveal())

    def slow_verifier(self, text: SecretText) -> Verifier:
        """Return what to keep of a text that a fast hash would not protect. Takes up to a second of CPU."""
        return Verifier("bcrypt-sha256", 0, bcrypt.hashpw(prehashed(text), bcrypt.gensalt(self._cost)))

    def _signed(self, keyspace: Keyspace, key: Key, now: Instant, roles: Collection[str]) -> SecretText:
        # `sid` makes two secrets of one key, made in the same second, two texts.
        claims = {
            "sub": key.owner or key.id,
            "organization": key.organization,
            "jti": key.id,
            "iat": now // SECOND,
            "roles": _told(roles),
            "sid": self._random(16).hex(),
        }
        version = self._keyring.current.signing.active
        seed = self._signing_seed(keyspace, version)
        signer = Ed25519PrivateKey.from_private_bytes(seed) if keyspace.algorithm == "EdDSA" else seed
        headers = {"kid": _kid(keyspace, version)}
        return SecretText(jwt.encode(claims, signer, algorithm=keyspace.algorithm, headers=headers))

    def json_web_key_set(self, keyspace: Keyspace) -> str:
        """Return the public keys of a keyspace's JWTs (RFC 7517, RFC 8037); none if they are signed with a secret."""
        keys = []
        if keyspace.format is Format.JWT and keyspace.algorithm == "EdDSA":
            for version in sorted(self._keyring.current.signing.keys):
                public = Ed25519PrivateKey.from_private_bytes(self._signing_seed(keyspace, version)).public_key()
                raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
                x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
                kid = _kid(keyspace, version)
                keys.append({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x})
        return json.dumps({"keys": keys})

    def _signing_seed(self, keyspace: Keyspace, version: int) -> bytes:
        info = f"doorward signing {keyspace.name} {keyspace.algorithm}".encode()
        return HKDF(SHA256(), 32, None, info).derive(self._keyring.current.signing.keys[version])

    def _sealed(self, key: Key, secret: str, text: SecretText) -> Sealed:
        return self.seal((key.organization, key.id, secret), text)

    def opened(self, key: Key, secret: str, sealed: Sealed) -> SecretText:
        """Return the text in *sealed*. Raises InvalidTag for another key's, KeyError without the recovery key."""
        return self.unseal((key.organization, key.id, secret), sealed)

    def seal(self, whose: tuple[str, ...], text: SecretText) -> Sealed:
        """Encrypt *text* under the active recovery key, bound to *whose* it is."""
        recovery, nonce = self._keyring.current.recovery, self._random(_NONCE_BYTES)
        version = recovery.active
        cipher = AESGCM(recovery.keys[version])
        return Sealed(nonce + cipher.encrypt(nonce, text.reveal().encode(), _bound_to(whose)), version)

    def unseal(self, whose: tuple[str, ...], sealed: Sealed) -> SecretText:
        """Return the text in *sealed*. Raises InvalidTag for somebody else's, KeyError without the recovery key."""
        nonce, ciphertext = sealed.ciphertext[:_NONCE_BYTES], sealed.ciphertext[_NONCE_BYTES:]
        cipher = AESGCM(self._keyring.current.recovery.keys[sealed.version])
        return SecretText(cipher.decrypt(nonce, ciphertext, _bound_to(whose)).decode())


def prehashed(text: SecretText) -> bytes:
    """Return what bcrypt-sha256 hashes: 44 characters whatever the text, since bcrypt stops at 72 bytes."""
    return base64.b64encode(sha256(text.reveal().encode("utf-8", "surrogatepass")).digest())


def _told(roles: Collection[str]) -> list[str]:
    """Return as many *roles*, sorted, as leave a JWT short enough to be recognized and to travel in a header."""
    told = sorted(set(roles))
    while len(json.dumps(told)) > _ROLES_LENGTH:
        told.pop()
    return told


def _bound_to(whose: tuple[str, ...]) -> bytes:
    return json.dumps(whose).encode()


def _kid(keyspace: Keyspace, version: int) -> str:
    return f"{keyspace.name}-{version}"
