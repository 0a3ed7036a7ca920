from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentworld_core.codec import encode
from agentworld_core.errors import HashMismatch, InvalidField, MalformedEncoding
from agentworld_core.hashing import content_id
from agentworld_core.world.tree import EMPTY_ROOT, Tree, tree_from_sorted
from agentworld_core.world.tree_nodes import (
    LEAF_LIMIT,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Leaf,
    TreeInner,
    TreeLeaf,
    common_depth,
    path_prefix,
    shares,
    slot_of,
)
from agentworld_core.world.tree_proof import parse_node

# Few letters, so that keys share prefixes and are prefixes of each other; values large enough to split leaves soon.
KEYS = st.binary(min_size=1, max_size=8) | st.text("ab/", min_size=1, max_size=12).map(str.encode)
VALUES = st.binary(max_size=40) | st.integers(300, 1500).map(bytes)
CONTENTS = st.dictionaries(KEYS, VALUES, max_size=60)


def numbered(count: int, *, start: int = 0) -> dict[bytes, bytes]:
    return {b"agent/%06d" % number: b"value-%d" % number * 10 for number in range(start, start + count)}


@pytest.mark.box("S2.3", "root")
@given(CONTENTS, st.randoms(use_true_random=False))
def test_the_same_content_by_any_order_of_edits_has_the_same_root(contents, chance):
    straight = Tree.of(contents)
    keys = list(contents)
    chance.shuffle(keys)
    tree = Tree.empty()
    for key in keys:
        tree = tree.update({key: b"other", b"passing/" + key: b"x" * 700})
    for key in keys:
        tree = tree.update({b"passing/" + key: None})
    chance.shuffle(keys)
    half = len(keys) // 2
    tree = tree.update({key: contents[key] for key in keys[:half]}).update({key: contents[key] for key in keys[half:]})
    kept = {key: value for key, value in tree.items() if key in contents}
    assert kept == contents
    assert tree.root == straight.root
    assert tree.nodes() == straight.nodes()


@given(CONTENTS, CONTENTS)
def test_an_update_is_what_the_same_edits_of_a_dict_are(before, changes):
    edits: dict[bytes, bytes | None] = {key: None if len(value) < 20 else value for key, value in changes.items()}
    expected = dict(before)
    for key, value in edits.items():
        if value is None:
            expected.pop(key, None)
        else:
            expected[key] = value
    tree = Tree.of(before).update(edits)
    assert list(tree.items()) == sorted(expected.items())
    assert tree == Tree.of(expected)
    assert all(tree.get(key) == expected.get(key) for key in [*before, *changes])


# Prefixes within prefixes, and values of which a few fill a leaf: nodes split, join and fold at every level.
SPLITTING = st.lists(
    st.dictionaries(
        st.text("ab", min_size=1, max_size=9).map(str.encode),
        st.sampled_from([None, bytes(10), bytes(900), bytes(2_100), bytes(5_000)]),
        min_size=1,
        max_size=6,
    ),
    max_size=15,
)


@settings(max_examples=100)
@given(SPLITTING)
def test_every_edit_ends_at_the_one_tree_of_its_content(edits):
    tree = Tree.empty()
    contents: dict[bytes, bytes] = {}
    for changes in edits:
        tree = tree.update(changes)
        contents = {key: value for key, value in {**contents, **changes}.items() if value is not None}
        assert tree.root == Tree.of(contents).root
        assert tree.weight == Tree.of(contents).weight
    assert dict(tree.items()) == contents
    assert Tree.load(tree.root, tree.nodes().__getitem__) == tree


def test_one_edit_may_fold_a_branching_and_add_beside_it():
    before: dict[bytes, bytes | None] = {b"object/%d" % number: bytes(1_500) for number in range(4)}
    folded = {**dict.fromkeys(before), b"object/0": bytes(1_500), b"agent": b"x", b"zebra": b"y"}
    tree = Tree.of({b"object/%d" % number: bytes(1_500) for number in range(4)}).update(folded)
    assert tree == Tree.of({key: value for key, value in folded.items() if value is not None})
    assert len(tree.nodes()) == 1


@given(CONTENTS)
def test_different_content_has_a_different_root(contents):
    tree = Tree.of(contents)
    for key, value in contents.items():
        assert tree.update({key: value + b"!"}).root != tree.root
        assert tree.update({key: None}).root != tree.root


@given(CONTENTS, st.binary(max_size=4) | st.text("ab/", max_size=5).map(str.encode))
def test_items_yields_what_begins_with_the_prefix_in_order(contents, prefix):
    expected = sorted((key, value) for key, value in contents.items() if key.startswith(prefix))
    assert list(Tree.of(contents).items(prefix)) == expected


@given(CONTENTS, st.data())
def test_items_go_on_behind_a_key_that_is_there_or_not(contents, data):
    tree = Tree.of(contents)
    after = data.draw(st.sampled_from([*sorted(contents), b"", b"a", b"~"]) | st.binary(max_size=4))
    assert list(tree.items(after=after)) == sorted((key, value) for key, value in contents.items() if key > after)


@given(CONTENTS)
def test_a_tree_loads_from_its_nodes(contents):
    tree = Tree.of(contents)
    loaded = Tree.load(tree.root, tree.nodes().__getitem__)
    assert list(loaded.items()) == sorted(contents.items())
    assert loaded.update({b"new": b"entry"}) == tree.update({b"new": b"entry"})


@given(CONTENTS, CONTENTS)
def test_new_nodes_complete_the_nodes_of_the_other_tree(before, after):
    old = Tree.of(before)
    new = old.update({**after, **dict.fromkeys(list(before)[::2])})
    added = new.new_nodes(old)
    stored = {**old.nodes(), **added}
    assert not set(added) & set(old.nodes())
    assert Tree.load(new.root, stored.__getitem__) == new


def test_the_empty_tree():
    tree = Tree.empty()
    assert tree.root == EMPTY_ROOT == content_id(encode(TreeLeaf(keys=(), values=())))
    assert list(tree.items()) == []
    assert tree.get(b"a") is None
    assert tree.weight == 0
    nothing: dict[str, bytes] = {}
    assert Tree.load(EMPTY_ROOT, nothing.__getitem__) == tree == Tree.of({b"a": b"1"}).update({b"a": None})
    assert set(tree.nodes()) == {EMPTY_ROOT}
    assert tree.new_nodes(tree) == {}


def test_the_root_is_fixed_for_ever():
    assert Tree.of({b"a": b"1", b"b": b"2"}).root == (
        content_id(bytes.fromhex("831828" + "82" + "4161" + "4162" + "82" + "4131" + "4132"))
    )
    assert Tree.of(numbered(1000)).root == "ed3e67b83ba60432144d18c271bb9029662aef415527d7fa583d1bd70dce5d89"


def test_an_update_that_changes_nothing_returns_the_same_tree():
    tree = Tree.of(numbered(500))
    assert tree.update({}) is tree
    assert tree.update({b"agent/000007": tree.get(b"agent/000007"), b"absent": None}) is tree


@pytest.mark.box("S2.3", "by-key")
def test_the_cost_of_an_edit_does_not_follow_the_size():
    for size in (1_000, 20_000):
        tree = Tree.of(numbered(size))
        new = tree.update({b"agent/000500": b"moved"}).new_nodes(tree)
        assert len(new) <= 8
        assert sum(map(len, new.values())) < 8 * LEAF_LIMIT


@pytest.mark.box("S2.3", "by-key")
def test_no_choice_of_keys_makes_an_insertion_rewrite_its_neighbours():
    # Keys whose hash ends no chunk, for any tree that would cut where the low bits of a hash are zero.
    keys = [b"agent/%08d" % number for number in range(2, 42_000, 2)]
    ground = [key for key in keys if int(content_id(key)[:2], 16) & 31 != 0 and int(content_id(key)[-2:], 16) & 31 != 0]
    tree = Tree.of(dict.fromkeys(ground, b"value" * 8))
    assert len(tree.update({b"agent/00000001": b"value" * 8}).new_nodes(tree)) <= 9


def test_leaves_are_bounded_in_bytes_and_a_large_value_stands_alone():
    tree = Tree.of({**numbered(3_000), b"object/x": bytes(MAX_VALUE_BYTES)})
    for data in tree.nodes().values():
        node = parse_node(data)
        if isinstance(node, TreeLeaf) and len(node.keys) > 1:
            assert sum(len(key) + len(value) for key, value in zip(node.keys, node.values, strict=True)) <= LEAF_LIMIT


def test_nodes_encode_as_their_messages():
    for data in Tree.of(numbered(2_000)).nodes().values():
        assert encode(parse_node(data)) == data


def test_a_chain_of_branchings_as_deep_as_a_key_can_be():
    path = bytes(range(1, MAX_KEY_BYTES + 1))
    entries = {path: b"end"}
    for depth in range(MAX_KEY_BYTES):
        entries[path[:depth] + b"\xff"] = bytes(LEAF_LIMIT)
        entries[path[:depth] + bytes([path[depth] ^ 0x0F]) + b"."] = bytes(LEAF_LIMIT)
    entries = {key: value for key, value in entries.items() if len(key) <= MAX_KEY_BYTES}
    tree = Tree.empty()
    for key, value in entries.items():
        tree = tree.update({key: value})
    assert tree == Tree.of(entries) == Tree.load(tree.root, tree.nodes().__getitem__)
    assert tree.get(path) == b"end"
    assert tree.update(dict.fromkeys(list(entries)[1:], None)) == Tree.of({path: b"end"})


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"", b""), (bytes(MAX_KEY_BYTES + 1), b""), (b"k", bytes(MAX_VALUE_BYTES + 1)), ("text", b""), (b"k", "text")],
)
def test_entries_beyond_the_limits_are_refused(key, value):
    with pytest.raises(InvalidField):
        Tree.empty().update({key: value})


def test_load_refuses_a_changed_node():
    tree = Tree.of(numbered(500))
    nodes = tree.nodes()
    for node_id, data in nodes.items():
        changed = {**nodes, node_id: data[:-1] + bytes([data[-1] ^ 1])}
        with pytest.raises(HashMismatch):
            Tree.load(tree.root, changed.__getitem__)


def _stored(*nodes: TreeLeaf | TreeInner) -> tuple[str, dict[str, bytes]]:
    blobs = {content_id(encode(node)): encode(node) for node in nodes}
    return content_id(encode(nodes[-1])), blobs


def _leaf(key: bytes, *, size: int = LEAF_LIMIT) -> TreeLeaf:
    return TreeLeaf(keys=(key,), values=(bytes(size),))


def _inner(depth: int, prefix: bytes, slots: int, *children: TreeLeaf | TreeInner) -> TreeInner:
    digests = b"".join(bytes.fromhex(content_id(encode(child))) for child in children)
    return TreeInner(depth=depth, prefix=prefix, slots=slots, children=digests)


A, B = _leaf(b"a"), _leaf(b"b")  # 0x61 and 0x62: one common half-byte


def test_load_accepts_the_node_an_update_makes():
    root, blobs = _stored(A, B, _inner(1, b"\x60", 0b1100, A, B))
    assert Tree.load(root, blobs.__getitem__).root == root == Tree.of({b"a": A.values[0], b"b": B.values[0]}).root


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param((TreeLeaf(keys=(b"a", b"b"), values=(bytes(3000), bytes(3000))),), id="leaf too large"),
        pytest.param((TreeLeaf(keys=(b"b", b"a"), values=(b"", b"")),), id="leaf out of order"),
        pytest.param((TreeLeaf(keys=(b"a", b"a"), values=(b"", b"")),), id="key twice"),
        pytest.param((TreeLeaf(keys=(b"a",), values=()),), id="value missing"),
        pytest.param((A, B, _inner(0, b"", 0b110, A, B)), id="prefix too short"),
        pytest.param((A, B, _inner(1, b"\x70", 0b1100, A, B)), id="other prefix"),
        pytest.param((A, B, _inner(1, b"\x60", 0b11000, A, B)), id="other slots"),
        pytest.param((A, B, _inner(1, b"\x60", 0b1100, B, A)), id="swapped"),
        pytest.param((A, _inner(1, b"\x60", 0b100, A)), id="one child"),
        pytest.param((A, B, _inner(1, b"\x61", 0b1100, A, B)), id="prefix longer than depth"),
        pytest.param((A, B, _inner(3, b"\x61\x00", 0b1100, A, B)), id="deeper than its keys"),
        pytest.param((A, B, _inner(1, b"\x60", 0b100000000000001100, A, B)), id="slot beyond"),
        pytest.param((A, B, _inner(1, b"\x60", 0b1110, A, B)), id="digest missing"),
        pytest.param(
            (
                _leaf(b"a", size=1),
                _leaf(b"b", size=1),
                _inner(1, b"\x60", 0b1100, _leaf(b"a", size=1), _leaf(b"b", size=1)),
            ),
            id="would fit a leaf",
        ),
        pytest.param((A, TreeLeaf((), ()), _inner(1, b"\x60", 0b1100, A, TreeLeaf((), ()))), id="empty child"),
    ],
)
def test_load_refuses_nodes_that_no_edit_makes(nodes):
    root, blobs = _stored(*nodes)
    with pytest.raises(MalformedEncoding):
        Tree.load(root, blobs.__getitem__)


def test_subtrees_cut_the_content_whatever_its_history():
    contents = numbered(3_000)
    keys = list(contents)
    random.Random(7).shuffle(keys)
    tree = Tree.of({key: contents[key] for key in keys[:1500]}).update({key: contents[key] for key in keys[1500:]})
    cut = [node.first for node in tree.subtrees(64 * 1024)]
    assert cut == [node.first for node in Tree.of(contents).subtrees(64 * 1024)]
    assert all(node.weight <= 64 * 1024 for node in tree.subtrees(64 * 1024))
    assert sum(node.weight for node in tree.subtrees(64 * 1024)) == tree.weight
    for node in tree.subtrees(64 * 1024):
        assert tree.has_subtree(node, 64 * 1024)
        assert isinstance(node, Leaf) or not tree.has_subtree(next(iter(node.children.values())), 64 * 1024)


def test_a_sorted_list_makes_the_same_tree():
    contents = numbered(700)
    assert tree_from_sorted(sorted(contents.items())) == Tree.of(contents)
    with pytest.raises(MalformedEncoding):
        tree_from_sorted([(b"b", b""), (b"a", b"")])


def test_half_bytes():
    assert [slot_of(b"\x6a", depth) for depth in (0, 1, 2)] == [7, 11, 0]
    assert common_depth(b"ab", b"ab") == common_depth(b"ab", b"abc") == 4
    assert common_depth(b"\x61", b"\x62") == 1
    assert common_depth(b"\x61", b"\x71") == 0
    assert shares(b"\x61", b"\x62", 1)
    assert not shares(b"\x61", b"\x62", 2)
    assert not shares(b"\x61", b"", 1)
    assert not shares(b"a", b"abc", 4)
    assert path_prefix(b"\x61\x62", 3) == b"\x61\x60"
