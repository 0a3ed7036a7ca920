"""Addresses, peers and errors of the network port."""

import pytest

from agentworld_core.errors import InvalidField, NotFound
from agentworld_node.network.port import Peer, ProtocolUnavailable, RequestFailed, split_address
from agentworld_node.network.serving import Reply, reply_of


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:4001", ("127.0.0.1", 4001)),
        ("aurora-0.aurora-peers.worlds.svc:1", ("aurora-0.aurora-peers.worlds.svc", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_address_is_split(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "host", ":1", "host:", "host:0", "host:65536", "host:-1", "host:+1", "::1:80", "a b:1", "/ip4/x:1"]
)
def test_bad_address_is_refused_with_a_remedy(address: str) -> None:
    with pytest.raises(InvalidField, match="host:port"):
        Peer("peer", (address,))


@pytest.mark.box("S1.3", "not-found")
def test_error_of_a_handler_keeps_its_codes_and_words() -> None:
    with pytest.raises(RequestFailed, match="no such block") as caught:
        reply_of(NotFound("no such block")).value()
    assert (caught.value.remote_code, caught.value.remote_wire) == ("not_found", "ERR_NOT_FOUND")
    assert not caught.value.retryable


@pytest.mark.box("S1.3", "retryable")
def test_error_of_a_peer_is_passed_on_unchanged() -> None:
    first = RequestFailed("busy over there", remote_code="busy", remote_wire="ERR_BUSY")
    with pytest.raises(RequestFailed) as caught:
        reply_of(first).value()
    assert (caught.value.remote_code, caught.value.retryable) == ("busy", True)


def test_long_error_message_is_cut_between_characters() -> None:
    with pytest.raises(RequestFailed) as caught:
        reply_of(NotFound("ü" * 2000)).value()
    assert caught.value.message == "ü" * 512


@pytest.mark.box("S1.3", "reply")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0\0\0\0\0\0",
        b"\xff\xff",
        reply_of(NotFound("x")).body + b"x",
        reply_of(NotFound("x")).body[:-1],
        b"\0\x02\xff\xff\0\0\0\0",
        reply_of(NotFound("x")).body.replace(b"ERR_NOT_FOUND", b"ERR_NOT_KNOWN"),
    ],
)
def test_error_that_does_not_parse_is_an_error_too(body: bytes) -> None:
    with pytest.raises(RequestFailed) as caught:
        Reply(ok=False, body=body).value()
    assert caught.value.remote_code == "malformed"
    assert not isinstance(caught.value, ProtocolUnavailable)
