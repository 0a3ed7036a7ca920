from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld_core.errors import MalformedEncoding
from agentworld_core.world.nonces import MAX_NONCE, NONCE_WINDOW, NonceWindow


@pytest.mark.box("S7.1", "old-or-future")
@pytest.mark.box("S5.1", "dedup-in-state")
@given(st.lists(st.integers(0, 3 * NONCE_WINDOW) | st.integers(MAX_NONCE - 5, MAX_NONCE), max_size=60))
def test_a_window_refuses_exactly_what_was_used_or_is_too_old(nonces):
    window = NonceWindow()
    used: set[int] = set()
    for nonce in nonces:
        newest = max(used, default=-1)
        expected = nonce not in used and nonce > newest - NONCE_WINDOW
        assert window.usable(nonce) == expected
        if expected:
            used.add(nonce)
            window = window.use(nonce)
            assert not window.usable(nonce)
        else:
            with pytest.raises(ValueError, match="is used"):
                window.use(nonce)
        assert NonceWindow.from_value(window.to_value()) == window
        assert window.next_free == max(used, default=-1) + 1
        assert window.used.bit_length() <= NONCE_WINDOW


def test_counting_up_leaves_an_empty_bitmap():
    window = NonceWindow()
    for nonce in range(100):
        window = window.use(nonce)
    assert window == NonceWindow(low=100, used=0)


def test_a_gap_is_kept_until_it_is_filled():
    window = NonceWindow().use(2).use(0)
    assert window == NonceWindow(low=1, used=0b10)
    assert window.use(1) == NonceWindow(low=3, used=0)


def test_the_highest_nonce_fits_the_state():
    assert NonceWindow().use(MAX_NONCE).low == MAX_NONCE - NONCE_WINDOW + 1


@pytest.mark.parametrize("value", [None, {}, {"low": 1}, {"low": 1, "used": 1}, {"low": 1, "used": b"", "more": 0}])
def test_other_values_are_no_window(value):
    with pytest.raises(MalformedEncoding):
        NonceWindow.from_value(value)
