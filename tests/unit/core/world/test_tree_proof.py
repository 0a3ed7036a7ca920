from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, HashMismatch, MalformedEncoding
from agentworld_core.hashing import content_id
from agentworld_core.world.errors import InvalidProof
from agentworld_core.world.tree import Tree
from agentworld_core.world.tree_proof import StateProof, verify_proof

KEYS = st.binary(min_size=1, max_size=6) | st.text("ab/", min_size=1, max_size=10).map(str.encode)
CONTENTS = st.dictionaries(KEYS, st.integers(0, 1500).map(bytes), max_size=40)

TREE = Tree.of({b"agent/%04d" % number: b"value-%d" % number * 12 for number in range(800)})


@pytest.mark.box("S8.3", "proof")
@given(CONTENTS, KEYS)
def test_a_proof_says_what_the_tree_says(contents, other):
    tree = Tree.of(contents)
    for key in [*contents, other]:
        proof = decode(StateProof, encode(tree.prove(key)))
        assert verify_proof(tree.root, key, proof) == contents.get(key)


@pytest.mark.box("S8.3", "proof")
@given(CONTENTS.filter(bool), st.data())
def test_a_proof_changed_in_any_byte_is_refused(contents, data):
    tree = Tree.of(contents)
    key = data.draw(st.sampled_from(sorted(contents)) | KEYS)
    encoded = encode(tree.prove(key))
    place = data.draw(st.integers(0, len(encoded) - 1))
    changed = encoded[:place] + bytes([encoded[place] ^ data.draw(st.integers(1, 255))]) + encoded[place + 1 :]
    with pytest.raises(AgentWorldError):
        verify_proof(tree.root, key, decode(StateProof, changed))


@given(CONTENTS, CONTENTS, KEYS)
def test_a_proof_of_one_state_proves_nothing_of_another(contents, others, key):
    one, other = Tree.of(contents), Tree.of(others)
    if one == other:
        return
    with pytest.raises(AgentWorldError):
        verify_proof(other.root, key, one.prove(key))


@pytest.mark.parametrize("key", [b"agent/0400", b"agent/9999", b"agent/04000", b"zebra", b"agent"])
def test_missing_and_extra_nodes_are_refused(key):
    proof = TREE.prove(key)
    expected = TREE.get(key)
    assert verify_proof(TREE.root, key, proof) == expected
    with pytest.raises(InvalidProof):
        verify_proof(TREE.root, key, dataclasses.replace(proof, nodes=proof.nodes[:-1]))
    with pytest.raises(InvalidProof):
        verify_proof(TREE.root, key, dataclasses.replace(proof, nodes=(*proof.nodes, proof.nodes[-1])))
    with pytest.raises(InvalidProof):
        verify_proof(TREE.root, key, StateProof(nodes=()))
    if len(proof.nodes) > 1:
        with pytest.raises(HashMismatch):
            verify_proof(TREE.root, key, dataclasses.replace(proof, nodes=proof.nodes[::-1]))


def test_the_proof_of_another_key_is_refused_where_the_paths_part():
    with pytest.raises(AgentWorldError):
        verify_proof(TREE.root, b"agent/0799", TREE.prove(b"agent/0000"))


def test_the_empty_state_proves_absence():
    assert verify_proof(Tree.empty().root, b"a", Tree.empty().prove(b"a")) is None


def test_a_node_that_is_no_tree_node_is_refused():
    with pytest.raises(MalformedEncoding):
        verify_proof(content_id(b"\x80"), b"a", StateProof(nodes=(b"\x80",)))


def test_proofs_are_short():
    tree = Tree.of({b"agent/%06d" % number: b"value-%d" % number * 10 for number in range(20_000)})
    assert len(encode(tree.prove(b"agent/012345"))) < 8 * 1024
