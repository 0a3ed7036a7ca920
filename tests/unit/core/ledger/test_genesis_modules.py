"""A world that begins with modules: the genesis commits to them, block 1 runs them, and proposals exchange them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.codec import decode, encode, encode_value
from agentworld_core.errors import AgentWorldError, InvalidField, InvalidSignature
from agentworld_core.genesis_module import MAX_GENESIS_MODULE_BYTES, GenesisModule, genesis_module
from agentworld_core.hashing import content_id
from agentworld_core.ledger.genesis import chain_from_genesis, check_genesis, genesis_hash, genesis_state
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.messages import Genesis
from agentworld_core.signing import add_signature
from agentworld_core.world.modules.artifacts import read_artifact
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_core.world.modules.records import (
    ActiveRecord,
    ArtifactRecord,
    ModuleStateRecord,
    RegistryRecord,
    active_key,
    artifact_key,
    module_state_key,
    read_manifest,
    registry_key,
)
from agentworld_core.world.state import read
from tests.unit.core.ledger.chains import VOTERS, Chain, make_genesis
from tests.unit.core.ledger.module_chain import all_ok, count, move
from tests.unit.core.membership.worlds import first_directory, signer
from tests.unit.core.world.agents import action, register
from tests.unit.core.world.modules.governed import FakeSandbox

EXAMPLES = Path(__file__).parents[4] / "examples" / "modules"
CODE = (EXAMPLES / "counter" / "counter.wasm").read_bytes()
OTHER = (EXAMPLES / "market" / "market.wasm").read_bytes()


def document(**fields: Any) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((EXAMPLES / "counter" / "manifest.json").read_text())
    listening = [{"event_kinds": ["agent.moved"]}]
    return {**manifest, "subscriptions": listening, "wasm_hash": content_id(CODE), **fields}


def with_modules(*modules: GenesisModule) -> Genesis:
    directory = first_directory(dict.fromkeys(VOTERS, 1), governance=("gov",))
    genesis = dataclasses.replace(make_genesis(directory), modules=modules, signatures=())
    return add_signature(genesis, signer("gov"))


def a_sandbox() -> FakeSandbox:
    sandbox = FakeSandbox()
    sandbox.add(CODE, count)
    return sandbox


GENESIS = with_modules(genesis_module(document(), CODE))


def a_chain() -> Chain:
    chain = Chain(GENESIS, sandbox=a_sandbox())
    chain.commit(register("ada"))
    for nonce in (1, 2, 3):
        move(chain, nonce)
    assert all_ok(chain)
    return chain


def test_the_hash_of_the_genesis_commits_to_code_and_manifest():
    changed = bytearray(CODE)
    changed[-1] ^= 1
    others = [
        make_genesis(),
        with_modules(genesis_module(document(name="Another"), CODE)),
        with_modules(genesis_module(document(wasm_hash=content_id(bytes(changed))), bytes(changed))),
    ]
    assert genesis_hash(GENESIS) not in [genesis_hash(other) for other in others]
    assert decode(Genesis, encode(GENESIS)) == GENESIS
    with pytest.raises(InvalidSignature):
        check_genesis(dataclasses.replace(GENESIS, modules=others[1].modules))


def test_the_state_before_block_1_is_as_if_a_proposal_had_brought_the_modules_in():
    second = genesis_module(document(module_id="counter-b"), CODE)
    state = genesis_state(with_modules(genesis_module(document(), CODE), second))
    assert read(state, active_key("counter"), ActiveRecord) == ActiveRecord("1.0.0")
    assert read(state, registry_key("counter", "1.0.0"), RegistryRecord) == RegistryRecord(document(), 0, 0)
    assert read(state, artifact_key(content_id(CODE)), ArtifactRecord) == ArtifactRecord(1, 1, len(CODE), 2)
    assert read_artifact(state, content_id(CODE)) == CODE
    assert read_manifest(state).active == 2
    assert read_manifest(state).hash == read_manifest(genesis_state(make_genesis())).hash


def test_a_world_without_modules_begins_as_before():
    assert [key for key, _ in genesis_state(make_genesis()).items()] == [
        b"directory/00000000000000000001",
        b"meta",
        b"world",
    ]


@pytest.mark.box("S16.1", "in-the-genesis")
def test_modules_run_from_block_1_and_whoever_has_the_genesis_replays_them():
    chain = a_chain()
    assert read(chain.state.tree, module_state_key("counter"), ModuleStateRecord) == ModuleStateRecord(b"3")
    state = chain_from_genesis(decode(Genesis, encode(GENESIS)), sandbox=a_sandbox())
    for bundle in chain.bundles:
        state = check_bundle(state, bundle)
    assert state == chain.state
    with pytest.raises(SandboxMissing):
        check_bundle(chain_from_genesis(GENESIS), chain.bundles[0])


@pytest.mark.box("S16.2", "once")
def test_a_restart_from_a_snapshot_has_the_code():
    chain = a_chain()
    state = chain_from_snapshot(
        GENESIS, chain.bundles[2], directories=[GENESIS.directory], fetch=chain.blobs.__getitem__, sandbox=a_sandbox()
    )
    assert check_bundle(state, chain.bundles[3]) == chain.state


@pytest.mark.box("S18.2", "upgrade")
def test_a_proposal_upgrades_a_module_of_the_genesis():
    sandbox = a_sandbox()
    chain = Chain(GENESIS, sandbox=sandbox)
    chain.commit(register("one", key="gov"), register("two", key="gov"), register("ada"))
    manifest = document(version="1.1.0", subscriptions=[])
    upgrade = {
        "module_id": "counter",
        "from_version": "1.0.0",
        "to_version": "1.1.0",
        "wasm_hash": content_id(CODE),
        "manifest": manifest,
    }
    changes = {"upgrade": [upgrade], "activate": [{"module_id": "counter", "version": "1.1.0"}]}
    base = read_manifest(chain.state.tree).hash
    chain.commit(action("one", "proposal.create", {"base": base, "changes": changes}, 1, key="gov"))
    chain.commit(
        action("one", "proposal.shadow", {"proposal": 1}, 2, key="gov"),
        action("two", "proposal.approve", {"proposal": 1}, 1, key="gov"),
        action("one", "proposal.apply", {"proposal": 1}, 3, key="gov"),
    )
    assert all_ok(chain), [execution.receipts for execution in chain.executions]
    assert read(chain.state.tree, active_key("counter"), ActiveRecord) == ActiveRecord("1.1.0")
    move(chain, 1)
    assert read(chain.state.tree, module_state_key("counter"), ModuleStateRecord) is None


def filled(size: int) -> bytes:
    """A module of this many bytes: the example, and a custom section that nobody reads."""
    body = b"\1x" + bytes(size - len(CODE) - 6)
    length = len(body)
    return CODE + b"\0" + bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + body


def test_modules_fill_the_genesis_to_its_limit_and_not_beyond():
    size = MAX_GENESIS_MODULE_BYTES - len(encode_value(document()))
    code = filled(size)
    assert len(code) == size
    genesis = with_modules(genesis_module(document(wasm_hash=content_id(code)), code))
    assert read_artifact(genesis_state(genesis), content_id(code)) == code
    assert len(encode(genesis)) < 1024 * 1024
    chain_from_genesis(genesis)
    more = filled(size + 1)
    with pytest.raises(InvalidField, match="917504 bytes together"):
        check_genesis(with_modules(genesis_module(document(wasm_hash=content_id(more)), more)))


@pytest.mark.parametrize(
    ("modules", "field"),
    [
        ([(document(), OTHER)], "modules[0].wasm_hash"),
        ([(document(wasm_hash=content_id(b"wat")), b"wat")], "modules[0].code"),
        ([(document(exports=["reduce", "reduce_batch", "more"]), CODE)], "modules[0].code.exports"),
        ([(document(module_id="Counter"), CODE)], "modules[0].module_id"),
        ([(document(limits={"max_gas": 10**9}), CODE)], "modules[0].limits.max_gas"),
        ([(document(required_caps=["purse"]), CODE)], "modules[0].required_caps"),
        ([(document(), CODE), (document(), CODE)], "modules[1].module_id"),
        ([(document(module_id="b"), CODE), (document(module_id="a"), CODE)], "modules[1].module_id"),
    ],
)
def test_what_no_proposal_could_bring_in_no_genesis_can(modules, field):
    genesis = with_modules(*[genesis_module(manifest, code) for manifest, code in modules])
    with pytest.raises(InvalidField) as caught:
        check_genesis(genesis)
    assert caught.value.field == field


@pytest.mark.parametrize("manifest", [b"", b"\x80", b"\xff", b"\xbf\xff", encode_value(1), encode_value([])])
def test_a_manifest_that_is_no_document_is_refused(manifest):
    with pytest.raises(AgentWorldError):
        check_genesis(with_modules(GenesisModule(manifest, CODE)))
