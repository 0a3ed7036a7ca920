"""Which Ed25519 signatures count: exactly those that OpenSSL accepts, found out in the cheapest way there is.

What a world accepts must not depend on which library a node has, so one verdict is law: OpenSSL's, which is that of RFC
8032 without the cofactor (``sB = R + kA``, compared in bytes, s below the group order). libsodium asks the same
equation and more: it refuses points of small order and keys in an encoding that is not canonical. What it accepts,
OpenSSL accepts, in half of the time and without the interpreter's lock; what it refuses, OpenSSL is asked about. Later
versions of libsodium multiply by the cofactor, and would accept more; so the one that is here is used only when it
refuses a signature that just those accept.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Accepts = Callable[[bytes, bytes, bytes], bool]
"""Given a public key, a signature and the signed data, says whether the signature verifies."""

COFACTORED = (
    bytes.fromhex("5126190f6e4115244c47c4b0018eca2c9e719ac762ab2839f51242dac9bd2565"),
    bytes.fromhex(
        "198b3a8d1e57ce089d7761f542945f11696cecd01d72fdeb87ec653ddf8e8830"
        "8d27121baa9902951b5faa224f578bdbb52fd190540e5c3dba7c4df5387d980a"
    ),
    b"cofactor",
)
"""A public key, a signature and data that verify only when the equation is multiplied by the cofactor."""


def openssl_accepts(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """True when OpenSSL accepts the signature: the definition of a right one."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _libsodium() -> Accepts | None:
    """Returns the verdict of libsodium, None where there is none."""
    try:
        from nacl.bindings import crypto_sign_open
        from nacl.exceptions import BadSignatureError
    except ImportError:  # The client does without it.
        return None

    def accepts(public_key: bytes, signature: bytes, data: bytes) -> bool:
        try:
            crypto_sign_open(signature + data, public_key)
        except BadSignatureError:
            return False
        return True

    return accepts


def strict(accepts: Accepts | None) -> Accepts | None:
    """Returns the verdict if it is one that accepts nothing but what OpenSSL accepts, None otherwise."""
    return None if accepts is None or accepts(*COFACTORED) else accepts


_quick = strict(_libsodium())


def verifies(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """True when the signature of the data verifies under the public key; never raises."""
    if len(signature) != 64 or len(public_key) != 32:
        return False
    if _quick is not None and _quick(public_key, signature, data):
        return True
    return openssl_accepts(public_key, signature, data)


__all__ = ["COFACTORED", "Accepts", "openssl_accepts", "strict", "verifies"]
