"""One node for the tests that need real processes: reads commands as JSON lines, writes events as JSON lines."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from agentworld_node.network.libp2p import Libp2pConfig, Libp2pNetwork
from agentworld_node.network.port import Peer

TOPIC = "aw.w.action"


def emit(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def echo(_peer_id: str, payload: bytes) -> bytes:
    return payload


async def obey(network: Libp2pNetwork, command: dict[str, Any]) -> dict[str, Any]:
    match command["command"]:
        case "peers":
            network.set_peers([Peer(peer_id, tuple(addresses)) for peer_id, addresses in command["peers"]])
        case "publish":
            await network.publish(TOPIC, bytes.fromhex(command["payload"]))
        case "connected":
            return {"connected": list(network.connected())}
    return {}


async def main(seed: str, port: str) -> None:
    network = Libp2pNetwork(Libp2pConfig(seed=bytes.fromhex(seed), listen_port=int(port)))
    network.subscribe(TOPIC, lambda author, payload: emit(event="message", author=author, payload=payload[:64].hex()))
    network.serve("/aw/rr/1.0.0/echo", echo)
    await network.start()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        emit(event="done", number=command["number"], **await obey(network, command))
    await network.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
