"""Which signatures count: OpenSSL's verdict on each, whatever else is asked first."""

from __future__ import annotations

import pytest

from agentworld_core import ed25519
from agentworld_core.ed25519 import COFACTORED, openssl_accepts, strict, verifies
from tests.unit.node.material import signer

_ORDER = 2**252 + 27742317777372353535851937790883648493
_IDENTITY = (1).to_bytes(32, "little")
_IDENTITY_NOT_CANONICAL = (2**255 - 19 + 1).to_bytes(32, "little")
_OF_ORDER_TWO = (2**255 - 20).to_bytes(32, "little")
_OF_ORDER_FOUR = bytes(32)
KEY = signer("ada").public_key
DATA = b"what is signed"
GOOD = signer("ada").sign(DATA)


def _beyond_the_order() -> bytes:
    return GOOD[:32] + (int.from_bytes(GOOD[32:], "little") + _ORDER).to_bytes(32, "little")


SIGNATURES = {
    "right": (KEY, GOOD, DATA, True),
    "of other data": (KEY, GOOD, DATA + b"!", False),
    "of another key": (signer("bob").public_key, GOOD, DATA, False),
    "one bit of the point": (KEY, bytes([GOOD[0] ^ 1]) + GOOD[1:], DATA, False),
    "one bit of the number": (KEY, GOOD[:40] + bytes([GOOD[40] ^ 1]) + GOOD[41:], DATA, False),
    "a number beyond the order": (KEY, _beyond_the_order(), DATA, False),
    "right only with the cofactor": (*COFACTORED, False),
    "under the identity, which signs everything": (_IDENTITY, _IDENTITY + bytes(32), DATA, True),
    "under the identity in another encoding": (_IDENTITY_NOT_CANONICAL, _IDENTITY + bytes(32), DATA, True),
    "with a point that is not canonical": (_IDENTITY, _IDENTITY_NOT_CANONICAL + bytes(32), DATA, False),
    "a key that is no point": ((2).to_bytes(32, "little"), GOOD, DATA, False),
    "empty": (KEY, b"", DATA, False),
    "short": (KEY, GOOD[:63], DATA, False),
    "a short key": (KEY[:31], GOOD, DATA, False),
}


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize("quick", [True, False], ids=["with libsodium", "without"])
def test_what_counts_does_not_depend_on_the_library(name: str, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not quick:
        monkeypatch.setattr(ed25519, "_quick", None)
    *given, expected = SIGNATURES[name]
    assert verifies(*given) is expected
    if len(given[0]) == 32 and len(given[1]) == 64:
        assert openssl_accepts(*given) is expected


@pytest.mark.parametrize("point", [_IDENTITY, _OF_ORDER_TWO, _OF_ORDER_FOUR])
def test_keys_of_small_order_are_judged_as_openssl_judges_them(point: bytes) -> None:
    for number in range(16):
        data = bytes([number])
        for first in (_IDENTITY, _OF_ORDER_TWO, _OF_ORDER_FOUR):
            given = (point, first + bytes(32), data)
            assert verifies(*given) is openssl_accepts(*given)


def test_a_library_that_accepts_more_is_not_asked() -> None:
    assert strict(lambda _key, _signature, _data: True) is None
    assert strict(openssl_accepts) is openssl_accepts
    assert strict(None) is None


def test_libsodium_is_here_and_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ed25519._quick is not None
    asked: list[bytes] = []

    def refuse(_key: bytes, _signature: bytes, data: bytes) -> bool:
        asked.append(data)
        return False

    monkeypatch.setattr(ed25519, "openssl_accepts", refuse)
    assert verifies(KEY, GOOD, DATA)
    assert asked == []
    assert not verifies(KEY, GOOD, b"other")
    assert asked == [b"other"]
