"""The example modules as they are committed: each loads under its manifest and does what its source says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, cast

import pytest

from agentworld_core.codec import decode_value, encode_value
from agentworld_core.hashing import content_id
from agentworld_core.world.modules.sandbox import CallFailed, CallLimits, ModuleCall
from agentworld_node.sandbox import WasmSandbox

FOLDER = Path(__file__).parents[3] / "examples" / "modules"
NAMES = ("counter", "gatekeeper", "market")
MAX_STATE_BYTES = 60 * 1024


class Example:
    """One example module with the state that it returned last."""

    def __init__(self, sandbox: WasmSandbox, name: str):
        self.manifest: dict[str, Any] = json.loads((FOLDER / name / "manifest.json").read_text())
        self.code = (FOLDER / name / f"{name}.wasm").read_bytes()
        self.entry = {"reducer": "reduce", "pure": "call"}[self.manifest["kind"]]
        self.sandbox = sandbox
        self.state = b""
        self.fuel_used = 0
        sandbox.check(self.code, (self.entry,))
        sandbox.load(self.manifest["wasm_hash"], self.code)

    def input(self, kind: str, payload: Any, actor: str = "alice", **more: Any) -> bytes:
        action_id = content_id(encode_value([kind, actor]))
        ctx = {
            "v": "wasm-1",
            "module_id": self.manifest["module_id"],
            "trace_id": f"action-{action_id}-{self.manifest['module_id']}",
            "stage": self.manifest["subscriptions"][0]["stage"],
            "time": 7,
            "time_ms": 1_700_000_000_000,
            "origin": {"kind": "action", "id": action_id},
            "limits": self.manifest["limits"],
            "world_config_hash": "0" * 64,
        }
        action = {"action_id": action_id, "actor_id": actor, "kind": kind, "payload": payload}
        given = {"ctx": ctx, "action": encode_value(action), **more}
        return encode_value({**given, "state": self.state} if self.entry == "reduce" else given)

    def call(self, data: bytes) -> Any:
        limits = self.manifest["limits"]
        result = self.sandbox.call(
            ModuleCall(
                artifact=self.manifest["wasm_hash"],
                entry=self.entry,
                input=data,
                limits=CallLimits(
                    fuel=limits["max_gas"],
                    memory_bytes=limits["max_mem_bytes"],
                    output_bytes=limits["max_output_bytes"],
                ),
            )
        )
        self.fuel_used = result.fuel_used
        return decode_value(result.output)

    def together(self, inputs: list[bytes]) -> tuple[list[bytes], int]:
        """Returns the outputs of one call for these inputs, the first of which holds the state, and its fuel."""
        given: Any = [decode_value(data) for data in inputs]
        shared = {key: given[0][key] for key in ("ctx", "state") if key in given[0]}
        return self.call_batch(encode_value({**shared, "actions": [item["action"] for item in given]})), self.fuel_used

    def call_batch(self, data: bytes) -> list[bytes]:
        """Returns the outputs of a call for a batch."""
        entry = f"{self.entry}_batch"
        self.sandbox.check(self.code, (entry,))
        limits = CallLimits(fuel=10_000_000, memory_bytes=self.manifest["limits"]["max_mem_bytes"], output_bytes=2**20)
        result = self.sandbox.call(
            ModuleCall(artifact=self.manifest["wasm_hash"], entry=entry, input=data, limits=limits)
        )
        self.fuel_used = result.fuel_used
        return cast("list[bytes]", decode_value(result.output))

    def act(self, kind: str, payload: Any, actor: str = "alice") -> list[tuple[str, Any]]:
        """Returns what an action makes the module emit, and keeps its new state."""
        output = self.call(self.input(kind, payload, actor))
        assert set(output) <= {"emits", "new_state"}
        self.state = output.get("new_state", self.state)
        assert len(self.state) <= MAX_STATE_BYTES
        emits = [(item["kind"], item["payload"]) for item in output.get("emits", [])]
        assert len(emits) <= self.manifest["limits"]["max_emits"]
        return emits


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_names_the_artifact_that_is_there(sandbox: WasmSandbox, name: str) -> None:
    example = Example(sandbox, name)
    assert example.manifest["wasm_hash"] == content_id(example.code)
    assert example.manifest["interface_version"] == "wasm-1"
    assert example.entry in example.manifest["exports"]


@pytest.mark.parametrize("name", NAMES)
def test_an_input_that_is_not_as_promised_traps(sandbox: WasmSandbox, name: str) -> None:
    example = Example(sandbox, name)
    good = example.input("some.kind", {})
    for data in (b"", b"\xff", b"\xa0", good[:-1], good[:40], encode_value({"ctx": {}}), b"\x9b" + b"\xff" * 8):
        with pytest.raises(CallFailed) as caught:
            example.call(data)
        assert caught.value.reason_code == "trap"


def test_the_counter_counts(sandbox: WasmSandbox) -> None:
    counter = Example(sandbox, "counter")
    assert counter.act("counter.add", {"by": 5}) == [("counter.changed", {"by": 5, "actor": "alice", "total": 5})]
    assert counter.act("counter.add", {"by": -7}, "bob") == [
        ("counter.changed", {"by": -7, "actor": "bob", "total": -2})
    ]
    assert decode_value(counter.state) == [-2, 2]


@pytest.mark.parametrize("by", [None, "5", 1_000_001, -1_000_001, 2**63, -(2**63), [5], {"by": 5}, b"\5", True])
def test_the_counter_refuses_what_is_no_small_number(sandbox: WasmSandbox, by: Any) -> None:
    counter = Example(sandbox, "counter")
    ((kind, payload),) = counter.act("counter.add", {"by": by, "more": [1, {"x": [b"", None, False]}]})
    assert (kind, payload["actor"]) == ("counter.refused", "alice")
    assert counter.state == b""


def test_the_counter_does_not_overflow(sandbox: WasmSandbox) -> None:
    counter = Example(sandbox, "counter")
    counter.state = encode_value([2**63 - 3, 1])
    assert counter.act("counter.add", {"by": 2})[0][1]["total"] == 2**63 - 1
    assert counter.act("counter.add", {"by": 1})[0][1]["reason"] == "the total would be too large"


def some_actions(name: str, generator: random.Random) -> tuple[str, Any]:
    """An action that the module answers in one of all its ways."""
    number = generator.choice((0, 1, -1, 7, 999_999, 10**6 + 1, 2**62))
    if name == "counter":
        return generator.choice((("counter.add", {"by": number}), ("counter.add", {"by": "x" * 99}), ("counter.x", {})))
    text = "x" * generator.choice((0, 64, 280, 281))
    return generator.choice((
        ("agent.move", {"to": [number, -number]}),
        ("message.send", {"to": "bob", "body": text}),
        ("message.send", {"to": "bob", "body": None}),
        ("object.create", {"object_id": "lamp", "data": {"text": text}}),
        ("mailbox.clear", {"up_to": 3}),
    ))  # fmt: skip


@pytest.mark.parametrize("name", ["counter", "gatekeeper"])
@pytest.mark.parametrize("count", [1, 2, 23, 24, 300])
def test_a_batch_answers_what_each_call_of_its_own_would(sandbox: WasmSandbox, name: str, count: int) -> None:
    example, generator = Example(sandbox, name), random.Random(count)
    first = example.state = encode_value([2**63 - 3, 1]) if name == "counter" and count == 23 else b""
    inputs, outputs, fuel = [], [], 0
    for number in range(count):
        inputs.append(example.input(*some_actions(name, generator), f"agent-{number}"))
        output = example.call(inputs[-1])
        outputs.append(encode_value(output))
        fuel += example.fuel_used
        example.state = output.get("new_state", example.state)
    assert decode_value(inputs[0]).get("state", b"") == first  # type: ignore[union-attr]
    answers, used = example.together(inputs)
    assert answers == outputs
    assert count < 3 or used < fuel * 0.7


@pytest.mark.parametrize("name", ["counter", "gatekeeper"])
def test_a_batch_that_is_not_as_promised_traps(sandbox: WasmSandbox, name: str) -> None:
    example = Example(sandbox, name)
    good: Any = decode_value(example.input(*some_actions(name, random.Random(1))))
    for items in ({}, {"actions": 1}, {"actions": [1]}, {"events": [b""]}, {"actions": [b"\xa0"]}):
        given: Any = {"ctx": {}, **items}
        with pytest.raises(CallFailed) as caught:
            example.call_batch(encode_value(given))
        assert caught.value.reason_code == "trap"
    assert example.call_batch(encode_value({"ctx": good["ctx"], "actions": []})) == []


def decision(sandbox: WasmSandbox, kind: str, payload: Any) -> dict[str, Any]:
    gatekeeper = Example(sandbox, "gatekeeper")
    ((emitted, decided),) = gatekeeper.act(kind, payload)
    assert emitted == "rule.decision"
    given: Any = decode_value(gatekeeper.input(kind, payload))
    assert decided["action_id"] == given["ctx"]["origin"]["id"]
    assert isinstance(decided, dict)
    return decided


def test_the_gatekeeper_allows_at_a_cost(sandbox: WasmSandbox) -> None:
    decided = decision(sandbox, "agent.move", {"to": [1000, -1000]})
    assert (decided["verdict"], decided["cost"]) == ("allow", {"electricity": 1})
    assert "override_action" not in decided
    decided = decision(sandbox, "object.create", {"object_id": "chair", "data": {"legs": 4}})
    assert (decided["verdict"], decided["cost"]) == ("allow", {"hardware": 5})
    assert decision(sandbox, "mailbox.clear", {"up_to": 3})["cost"] == {}


def test_the_gatekeeper_turns_a_move_over_the_border_into_one_to_it(sandbox: WasmSandbox) -> None:
    decided = decision(sandbox, "agent.move", {"to": [2**53 - 1, -1001]})
    assert decided["verdict"] == "modify"
    assert decided["override_action"] == {"kind": "agent.move", "payload": {"to": [1000, -1000]}}


@pytest.mark.parametrize(
    ("body", "verdict", "cost"),
    [
        ("", "allow", {}),
        ("x", "allow", {"data": 1}),
        ("x" * 64, "allow", {"data": 1}),
        ("ü" * 33, "allow", {"data": 2}),
        ("x" * 280, "allow", {"data": 5}),
        ("x" * 281, "deny", {"data": 5}),
        ({"x": 1}, "deny", {"data": 1}),
    ],
)
def test_the_gatekeeper_counts_the_bytes_of_messages(
    sandbox: WasmSandbox, body: Any, verdict: str, cost: dict[str, int]
) -> None:
    decided = decision(sandbox, "message.send", {"to": "bob", "body": body})
    assert (decided["verdict"], decided["cost"]) == (verdict, cost)


def market(sandbox: WasmSandbox, *agents: str) -> Example:
    example = Example(sandbox, "market")
    for agent in agents:
        assert example.act("market.join", {}, agent) == [
            ("market.joined", {"agent": agent, "coins": 1000, "goods": 100})
        ]
    return example


def books(example: Example) -> tuple[dict[str, tuple[int, int]], list[Any]]:
    state: Any = decode_value(example.state)
    _, accounts, orders = state
    return {agent: (coins, goods) for agent, coins, goods in accounts}, orders


def test_orders_are_matched_best_price_first_then_oldest(sandbox: WasmSandbox) -> None:
    example = market(sandbox, "alice", "bob", "carol", "dave")
    example.act("market.sell", {"amount": 10, "price": 5}, "alice")
    example.act("market.sell", {"amount": 10, "price": 4}, "bob")
    example.act("market.sell", {"amount": 10, "price": 4}, "carol")
    emits = example.act("market.buy", {"amount": 25, "price": 5}, "dave")
    trades = [(item["seller"], item["amount"], item["price"]) for kind, item in emits if kind == "market.traded"]
    assert trades == [("bob", 10, 4), ("carol", 10, 4), ("alice", 5, 5)]
    assert emits[-1] == ("market.ordered", {"agent": "dave", "order": 4, "waits": 0})
    accounts, orders = books(example)
    assert accounts == {"alice": (1025, 90), "bob": (1040, 90), "carol": (1040, 90), "dave": (895, 125)}
    assert orders == [[1, "alice", 1, 5, 5]]


def test_what_an_order_needs_is_set_aside_and_given_back(sandbox: WasmSandbox) -> None:
    example = market(sandbox, "alice", "bob")
    example.act("market.buy", {"amount": 100, "price": 10}, "alice")
    assert example.act("market.buy", {"amount": 1, "price": 1}, "alice")[0][1]["reason"] == "has not so many coins"
    example.act("market.sell", {"amount": 30, "price": 8}, "bob")
    assert books(example)[0] == {"alice": (0, 130), "bob": (1300, 70)}
    assert example.act("market.cancel", {"order": 1}, "bob")[0][1]["reason"] == "has no such order"
    example.act("market.cancel", {"order": 1}, "alice")
    assert books(example) == ({"alice": (700, 130), "bob": (1300, 70)}, [])


@pytest.mark.parametrize(
    ("kind", "payload", "actor", "reason"),
    [
        ("market.join", {}, "alice", "has joined before"),
        ("market.sell", {"amount": 1, "price": 1}, "mallory", "has not joined"),
        ("market.sell", {"amount": 101, "price": 1}, "alice", "has not so many goods"),
        ("market.sell", {"amount": 0, "price": 1}, "alice", "amount and price"),
        ("market.sell", {"amount": 1, "price": -1}, "alice", "amount and price"),
        ("market.buy", {"amount": 2**62, "price": 2**62}, "alice", "amount and price"),
        ("market.buy", {"amount": 1_000_000, "price": 1_000_000}, "alice", "has not so many coins"),
        ("market.buy", {}, "alice", "amount and price"),
        ("market.cancel", {"order": 0}, "alice", "number of an order"),
        ("market.steal", {}, "alice", "no such action"),
    ],
)
def test_the_market_refuses_and_changes_nothing(
    sandbox: WasmSandbox, kind: str, payload: Any, actor: str, reason: str
) -> None:
    example = market(sandbox, "alice")
    before = example.state
    ((emitted, refused),) = example.act(kind, payload, actor)
    assert (emitted, refused["agent"]) == ("market.refused", actor)
    assert reason in refused["reason"]
    assert example.state == before


@pytest.mark.parametrize("seed", range(3))
def test_no_coin_and_no_good_is_made_or_lost(sandbox: WasmSandbox, seed: int) -> None:
    print(f"seed {seed}")
    generator = random.Random(seed)
    agents = [f"agent-{number}" for number in range(12)]
    example = market(sandbox, *agents)
    for _ in range(150):
        kind = generator.choice(("market.sell", "market.sell", "market.buy", "market.buy", "market.cancel"))
        payload = {"amount": generator.randint(1, 20), "price": generator.randint(1, 12)}
        if kind == "market.cancel":
            payload = {"order": generator.randint(1, 150)}
        example.act(kind, payload, generator.choice(agents))
        accounts, orders = books(example)
        held = [(0, amount) if sells else (price * amount, 0) for _, _, sells, price, amount in orders]
        everything = [*accounts.values(), *held]
        assert sum(coins for coins, _ in everything) == 12_000
        assert sum(goods for _, goods in everything) == 1_200
        assert all(coins >= 0 and goods >= 0 for coins, goods in everything)
        asks = [(price, agent) for _, agent, sells, price, _ in orders if sells]
        bids = [(price, agent) for _, agent, sells, price, _ in orders if not sells]
        assert not [1 for ask, seller in asks for bid, buyer in bids if bid >= ask and seller != buyer]


def test_a_full_market_stays_within_state_fuel_and_emits(sandbox: WasmSandbox) -> None:
    names = [f"{number:03}-{'x' * 59}" for number in range(256)]
    example = market(sandbox, *names)
    assert "no room" in example.act("market.join", {}, "late")[0][1]["reason"]
    for name in names:
        example.act("market.sell", {"amount": 1, "price": 1}, name)
    assert "no room" in example.act("market.sell", {"amount": 1, "price": 1}, names[0])[0][1]["reason"]
    state = example.state
    example.act("market.cancel", {"order": 256}, names[255])
    emits = example.act("market.buy", {"amount": 40, "price": 2}, names[0])
    assert len(emits) == 33
    assert example.fuel_used < example.manifest["limits"]["max_gas"] // 2
    assert len(state) < MAX_STATE_BYTES
