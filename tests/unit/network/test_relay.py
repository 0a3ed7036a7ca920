"""Who is pushed a message that came straight from its author, and who is only told of it."""

from __future__ import annotations

from libp2p.peer.id import ID

from agentworld_node.network.libp2p import relay
from agentworld_node.network.libp2p.relay import LazyRelay

ADA, BOB, EVE = b"ada", b"bob", b"eve"
ONE, TWO = ID(b"one"), ID(b"two")


def told(of: LazyRelay) -> dict[ID, dict[str, list[bytes]]]:
    return {peer: dict(topics) for peer, topics in of.take().items()}


def test_peers_are_told_by_topic_once() -> None:
    lazy = LazyRelay()
    assert lazy.note("votes", b"1", ADA, [ONE, TWO]) == []
    assert lazy.note("votes", b"2", BOB, [ONE]) == []
    assert lazy.note("heads", b"3", BOB, [ONE]) == []
    assert told(lazy) == {ONE: {"votes": [b"1", b"2"], "heads": [b"3"]}, TWO: {"votes": [b"1"]}}
    assert told(lazy) == {}


def test_who_asks_again_and_again_for_one_author_is_pushed_what_that_author_says() -> None:
    lazy = LazyRelay()
    for _ in range(relay.ASKED_OFTEN):
        assert lazy.note("votes", b"1", ADA, [ONE, TWO]) == []
        lazy.asked(ADA, ONE, now=1.0)
    assert lazy.note("votes", b"2", ADA, [ONE, TWO]) == [ONE]
    assert lazy.note("votes", b"3", BOB, [ONE, TWO]) == []


def test_what_peers_asked_for_is_forgotten_in_time_unless_they_go_on_asking() -> None:
    lazy = LazyRelay()
    for _ in range(relay.ASKED_OFTEN):
        lazy.asked(ADA, ONE, now=100.0)
    lazy.asked(BOB, TWO, now=100.0 + relay.KEPT_SECONDS + 1)
    assert lazy.depends(ADA, ONE)
    lazy.asked(BOB, TWO, now=100.0 + 2 * relay.KEPT_SECONDS + 2)
    assert not lazy.depends(ADA, ONE)
    assert not lazy.depends(BOB, TWO)
    lazy.asked(BOB, TWO, now=100.0 + 2 * relay.KEPT_SECONDS + 3)
    assert lazy.depends(BOB, TWO)


def test_when_too_much_waits_to_be_told_it_is_pushed() -> None:
    lazy = LazyRelay()
    pushed = [lazy.note("votes", b"%d" % number, EVE, [ONE]) for number in range(5000)]
    assert pushed[:4096] == [[]] * 4096
    assert pushed[4096:] == [[ONE]] * 904
    lazy.take()
    assert lazy.note("votes", b"again", EVE, [ONE]) == []


def test_authors_of_anybodys_making_use_up_no_memory() -> None:
    lazy = LazyRelay()
    for number in range(20_000):
        lazy.asked(b"%d" % number, ONE, now=1.0)
    assert len(lazy._asked) + len(lazy._asked_before) <= 2 * 4096
