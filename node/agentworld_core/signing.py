r"""A signature says which world, which kind of message and which fields it covers (decision 5 of the design).

Signed bytes are ``b"agentworld/v1/" + schema name + b"/" + world id + b"\0" + encoding with the signature empty``, so
that a signature can never be taken for one of another world or another message. Keys are Ed25519; the key id is the
first 16 bytes of BLAKE3 of the public key, in hex.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol, TypeVar, cast

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentworld_core.codec import encode_with
from agentworld_core.ed25519 import verifies
from agentworld_core.errors import InvalidField, InvalidSignature
from agentworld_core.hashing import content_id, digest
from agentworld_core.messages import KeySignature

_T = TypeVar("_T")
_DOMAIN = b"agentworld/v1/"


class Signer(Protocol):
    """Signs bytes with one key whose id and public half are known."""

    key_id: str
    public_key: bytes

    def sign(self, data: bytes) -> bytes:
        """Returns the 64-byte signature of the data."""
        ...


@functools.lru_cache(maxsize=4096)
def key_id_of(public_key: bytes) -> str:
    """Returns the key id of a 32-byte public key: 32 hex digits."""
    return digest(public_key)[:16].hex()


class Ed25519Signer:
    """Signs with an Ed25519 private key given as its 32-byte seed."""

    def __init__(self, seed: bytes):
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.seed = seed
        self.public_key = self._key.public_key().public_bytes_raw()
        self.key_id = key_id_of(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """Returns the 64-byte signature of the data."""
        return bytes(self._key.sign(data))

    def pem(self) -> bytes:
        """Returns the private key as unencrypted PKCS#8 PEM, the form of key files and Secrets."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @staticmethod
    def from_pem(data: bytes, *, field: str = "private key") -> Ed25519Signer:
        """Returns the signer of a PKCS#8 PEM private key; raises InvalidField that says what is wrong with it."""
        remedy = "make one with `agentworld keys generate` or `openssl genpkey -algorithm ed25519`"
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
            raise InvalidField("is not a readable PKCS#8 PEM private key", field=field, remedy=remedy) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidField(f"must be Ed25519, not {type(key).__name__}", field=field, remedy=remedy)
        return Ed25519Signer(key.private_bytes_raw())

    def __repr__(self) -> str:
        return f"Ed25519Signer({self.key_id})"


def signed_bytes(message: Any) -> bytes:
    """Returns the bytes that a signature of the message covers; the message has ``world_id`` and ``signature(s)``."""
    domain = f"{message.SCHEMA_NAME}/{message.world_id}".encode()
    return _DOMAIN + domain + b"\0" + encode_with(message, _no_signature(message))


def unsigned(message: _T) -> _T:
    """Returns the message with its signature, or all of its signatures, empty."""
    return dataclasses.replace(message, **_no_signature(message))  # type: ignore[type-var]


def _no_signature(message: Any) -> dict[str, Any]:
    return {"signatures": ()} if hasattr(message, "signatures") else {"signature": b""}


def unsigned_id(message: Any) -> str:
    """Returns the content id of the message without its signatures: the same whoever signed it."""
    return content_id(encode_with(message, _no_signature(message)))


def sign(message: _T, signer: Signer) -> _T:
    """Returns the message signed; where it names its ``key_id`` or ``public_key``, these are set before signing."""
    changes: dict[str, Any] = {}
    if hasattr(message, "key_id"):
        changes["key_id"] = signer.key_id
    if hasattr(message, "public_key"):
        changes["public_key"] = signer.public_key
    prepared: Any = dataclasses.replace(message, **changes)  # type: ignore[type-var]
    signature = signer.sign(signed_bytes(prepared))
    return cast("_T", dataclasses.replace(prepared, signature=signature))


def add_signature(message: _T, signer: Signer) -> _T:
    """Returns the message with one more signature, in the order of key ids; signing twice changes nothing."""
    kept = [item for item in message.signatures if item.key_id != signer.key_id]  # type: ignore[attr-defined]
    kept.append(KeySignature(key_id=signer.key_id, signature=signer.sign(signed_bytes(message))))
    ordered = tuple(sorted(kept, key=lambda item: item.key_id))
    return dataclasses.replace(message, signatures=ordered)  # type: ignore[type-var]


def verify_bytes(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """True when the signature of the data verifies under the public key."""
    return verifies(public_key, signature, data)


def verify(message: Any, public_key: bytes) -> None:
    """Raises InvalidSignature unless the message's own signature verifies under the public key."""
    if not verify_bytes(public_key, message.signature, signed_bytes(message)):
        raise InvalidSignature(
            f"the signature of this {message.SCHEMA_NAME} does not verify",
            field="signature",
        )
