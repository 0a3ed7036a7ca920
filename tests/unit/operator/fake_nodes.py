"""Nodes and a kubelet in memory: pods get addresses and files, nodes agree on directories the way real ones do.

A node follows what its pod mounts (genesis, key folder), judges directories and revocations with the real rules, and
puts a directory in force only while a quorum of members can vote with keys that count.
"""

import base64
import dataclasses
from collections.abc import Callable

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.evidence import Evidence, evidence_id
from agentworld_core.consensus.verdict import Verdict
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.membership.directory import check_next_directory, directory_hash, quorum_weight
from agentworld_core.membership.revocation import check_revocation, set_hash
from agentworld_core.messages import Directory, Equivocation, Genesis, Revocation
from agentworld_core.ordering.transfer import Writer, WriterTransfer, check_term, check_transfer
from agentworld_core.signing import Ed25519Signer
from agentworld_operator.errors import NodeRefused, NodeUnreachable
from agentworld_operator.nodes.status import Epoch, Head, NodeStatus
from tests.unit.operator.fake_kube import FakeKube, Object

IDLE = Verdict(state="Idle", message="idle: no actions wait")


@dataclasses.dataclass
class Node:
    """One running node and what it has taken up from its mounted files."""

    pod: str
    uid: str
    node_id: str
    address: str
    epoch: int = 1
    synced: bool = False
    revoked: dict[str, Revocation] = dataclasses.field(default_factory=dict)
    available: list[str] = dataclasses.field(default_factory=list)
    active: str = ""


class FakeNodes:
    """Implements ``NodeApi`` for all nodes of one world; ``step`` lets time pass for nodes and kubelet."""

    def __init__(self, kube: FakeKube, world: str = "aurora"):
        self.kube = kube
        self.world = world
        self.chain: list[Directory] = []
        self.document: Genesis | None = None
        self.pending: Directory | None = None
        self.submitted: list[Directory] = []
        self.nodes: dict[str, Node] = {}
        self.height = 0
        self.term = 0
        self.unreachable: list[str] = []
        self.image_missing = False
        self.slow_sync: list[str] = []
        self.restarts: list[str] = []
        self.proofs: list[Equivocation] = []
        self.progress: dict[str, Verdict] = {}
        self.now_ms: Callable[[], int] = lambda: 0
        self.asked_to_hand_over: list[str] = []
        self.unfit: dict[str, str] = {}
        self.silent_to_transfers: list[str] = []

    # What the operator calls

    async def status(self, address: str) -> NodeStatus:
        node = self._at(address)
        return NodeStatus(
            node_id=node.node_id,
            peer_id="",
            genesis_hash=content_id(encode(self._genesis())),
            head=Head(
                height=self.height,
                block_hash=content_id(b"block%d" % self.height),
                state_root=content_id(b"state"),
                time_ms=1_000 * self.height,
                term=self.term,
                signers=3,
            ),
            directory=Epoch(epoch=node.epoch, hash=directory_hash(self.chain[node.epoch - 1])),
            pending=Epoch(epoch=self.pending.epoch, hash=directory_hash(self.pending)) if self.pending else None,
            revoked_set_hash=set_hash(node.revoked),
            revoked=tuple(sorted(node.revoked)),
            active_key_id=self._signing_key(node),
            available_key_ids=tuple(node.available),
            voting=bool(self._signing_key(node)),
            writer=self._holder(),
            writer_term=self.term,
            sync_state="in_sync" if node.synced else "syncing",
            evidence=tuple(sorted(map(evidence_id, self.proofs))),
            progress=self.progress.get(node.node_id, IDLE),
        )

    async def genesis(self, address: str) -> Genesis:
        self._at(address)
        return self._genesis()

    async def directory(self, address: str, epoch: int) -> Directory:
        self._at(address)
        return self.chain[epoch - 1]

    async def evidence(self, address: str) -> Evidence:
        self._at(address)
        return Evidence(world_id=self.world, items=tuple(sorted(self.proofs, key=evidence_id)))

    async def push_directory(self, address: str, directory: Directory) -> None:
        self._at(address)
        if directory in self.chain or directory == self.pending:
            return
        self.submitted.append(directory)
        try:
            check_next_directory(self.chain[-1], directory)
        except AgentWorldError as error:
            raise NodeRefused(error.message, refusal=error.code, again=False) from error
        if self.pending is not None:
            raise NodeRefused("another change is in flight", refusal="busy", again=True)
        self.pending = directory

    async def push_revocation(self, address: str, statement: Revocation, *, force: bool) -> None:
        node = self._at(address)
        if statement.key_id in node.revoked:
            return
        try:
            check_revocation(statement, self.chain[-1], revoked_key_ids=list(node.revoked), forced=force)
        except AgentWorldError as error:
            raise NodeRefused(error.message, refusal=error.code, again=False) from error
        node.revoked[statement.key_id] = statement

    async def transfer_writer(self, address: str, wish: WriterTransfer) -> None:
        node = self._at(address)
        self.asked_to_hand_over.append(node.node_id)
        if node.node_id in self.silent_to_transfers:
            raise NodeUnreachable(f"{address} does not answer")
        lease = self.kube.read("Lease", f"{self.world}-sequencer")
        try:
            check_transfer(wish, self.chain[-1], now_ms=self.now_ms())
            check_term(wish, Writer(self._holder() or None, lease["spec"].get("leaseTransitions", 0) + 1))
        except AgentWorldError as error:
            raise NodeRefused(error.message, refusal=error.code, again=error.retryable) from error
        if wish.target_id in self.unfit:
            says = f"cannot write now: {self.unfit[wish.target_id]}"
            raise NodeRefused(says, refusal="not_available", again=True)
        spec = {"holderIdentity": wish.target_id, "leaseTransitions": wish.term}
        self.kube.merge("Lease", f"{self.world}-sequencer", {"spec": spec})
        self.term = wish.term + 1

    # What happens by itself

    def step(self) -> None:
        """Lets the kubelet, the nodes and the chain each take one step."""
        self._kubelet()
        self._mounts()
        for node in self.nodes.values():
            node.epoch = len(self.chain)
            node.synced = node.pod not in self.slow_sync
        if self.chain and self._can_commit():
            self._elect()
            if self.pending is not None:
                self.height += 3
                self.chain.append(self.pending)
                self.pending = None

    def commit(self, blocks: int = 1) -> None:
        """Commits blocks, if there is a quorum."""
        if self._can_commit():
            self.height += blocks

    def _kubelet(self) -> None:
        self._deployments()
        pods = {name: obj for (kind, _, name), obj in self.kube.objects.items() if kind == "Pod"}
        uids = {name: pod["metadata"]["uid"] for name, pod in pods.items()}
        for name in [name for name, node in self.nodes.items() if node.uid != uids.get(name)]:
            del self.nodes[name]
        for name, pod in pods.items():
            if self.image_missing:
                waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
                state = [{"name": "node", "image": "node:1", "state": {"waiting": waiting}}]
                self.kube.merge("Pod", name, {"status": {"phase": "Pending", "containerStatuses": state}})
                continue
            if name not in self.nodes:
                self.restarts.append(name)
                annotations = pod["metadata"].get("annotations") or {}
                node_id = annotations.get("agentworld.dev/node-id", name)
                self.nodes[name] = Node(
                    pod=name, uid=uids[name], node_id=node_id, address=f"10.0.0.{len(self.restarts)}"
                )
            ready = "True" if self.nodes[name].synced else "False"
            self.kube.merge(
                "Pod",
                name,
                {
                    "status": {
                        "phase": "Running",
                        "podIP": self.nodes[name].address,
                        "conditions": [{"type": "Ready", "status": ready}],
                        "containerStatuses": [{"name": "node", "started": self.nodes[name].synced}],
                    }
                },
            )

    def _deployments(self) -> None:
        name = f"{self.world}-gateway"
        deployment = self.kube.objects.get(("Deployment", "default", name))
        wanted = deployment["spec"]["replicas"] if deployment else 0
        for number in range(4):
            pod = f"{name}-{number}"
            exists = ("Pod", "default", pod) in self.kube.objects
            if number < wanted and not exists and deployment:
                template = deployment["spec"]["template"]
                self.kube.put(
                    {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "spec": template["spec"],
                        "metadata": {
                            "name": pod,
                            "namespace": "default",
                            "ownerReferences": [{"uid": deployment["metadata"]["uid"], "controller": True}],
                            **template["metadata"],
                        },
                    }
                )
            elif number >= wanted and exists:
                self.kube.remove("Pod", pod)

    def _mounts(self) -> None:
        if not self.chain and self.nodes:
            config = self.kube.read("ConfigMap", f"{self.world}-genesis")
            self.document = decode(Genesis, base64.b64decode(config["binaryData"]["genesis.cbor"]))
            self.chain = [self.document.directory]
        for node in self.nodes.values():
            folder = self.kube.objects.get(("Secret", "default", f"{node.pod}-keys"))
            if folder is None:
                continue
            data = {name: base64.b64decode(value) for name, value in folder["data"].items()}
            node.active = data.pop("active").decode().strip()
            ordered = sorted(data, key=lambda name: int(name[1:-4]))
            node.available = [Ed25519Signer.from_pem(data[name]).key_id for name in ordered]

    def _elect(self) -> None:
        """Keeps the Lease with its holder, or gives it to the first member that runs."""
        lease = self.kube.objects.get(("Lease", "default", f"{self.world}-sequencer"))
        if lease is None:
            return
        candidates = sorted(node.node_id for node in self.nodes.values() if self._signing_key(node))
        spec = lease["spec"]
        if spec.get("holderIdentity") in candidates or not candidates:
            return
        transitions = spec.get("leaseTransitions")
        self.term = 1 if transitions is None else transitions + 2
        self.kube.merge(
            "Lease",
            f"{self.world}-sequencer",
            {"spec": {"holderIdentity": candidates[0], "leaseTransitions": self.term - 1}},
        )

    def _holder(self) -> str:
        lease = self.kube.objects.get(("Lease", "default", f"{self.world}-sequencer"))
        return str(lease["spec"].get("holderIdentity", "")) if lease else ""

    def _signing_key(self, node: Node) -> str:
        current = self.chain[-1] if self.chain else None
        member = next((m for m in current.members if m.member_id == node.node_id), None) if current else None
        trusted = [key.key_id for key in member.keys] if member else []
        usable = [key for key in node.available if key in trusted and not self._is_revoked(key)]
        if node.active in usable:
            return node.active
        return usable[-1] if usable else ""

    def _is_revoked(self, key_id: str) -> bool:
        return any(key_id in node.revoked for node in self.nodes.values())

    def _can_commit(self) -> bool:
        current = self.chain[-1]
        able = [node.node_id for node in self.nodes.values() if node.synced and self._signing_key(node)]
        weight = sum(member.weight for member in current.members if member.member_id in able)
        return weight >= quorum_weight(current)

    def _genesis(self) -> Genesis:
        assert self.document is not None
        return self.document

    def _at(self, address: str) -> Node:
        for node in self.nodes.values():
            if f"{node.address}:8080" == address and node.pod not in self.unreachable:
                if self.document is None:
                    break
                return node
        raise NodeUnreachable(f"{address} does not answer")


def secret(name: str, **entries: bytes) -> Object:
    """Returns a Secret with entries; underscores in their names stand for dots."""
    data = {key.replace("_", "."): base64.b64encode(value).decode() for key, value in entries.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "data": data}
