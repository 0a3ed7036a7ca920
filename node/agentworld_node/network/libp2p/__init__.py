"""The Network port on libp2p: TCP, noise, yamux, gossipsub 1.1, and one framed stream per peer for requests.

The libp2p host lives with its trio loop in one dedicated thread; queues between the two loops are bounded both ways.

What happens to peers that misbehave: whoever sends bytes that do not parse (frames, RPCs, sizes over the limit) loses
the connection, and may dial again; a well-formed gossip message with a wrong signature is dropped and counted, and
the peer that relayed it stays; a peer that shows no sign of life loses the connection and is dialled again. Nothing
that a peer sends ends the process: should the host itself break down, it is started again.
"""

from agentworld_node.network.libp2p.network import Libp2pNetwork
from agentworld_node.network.libp2p.session import Libp2pConfig

__all__ = ["Libp2pConfig", "Libp2pNetwork"]
