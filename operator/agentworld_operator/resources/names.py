"""The names of everything that is made for a world; nothing else in the operator composes a name."""

from __future__ import annotations


def peers_service(world: str) -> str:
    """Returns the name of the headless Service in which nodes find each other."""
    return f"{world}-peers"


def gateway(world: str) -> str:
    """Returns the name of the gateway's Deployment, Service and node configuration."""
    return f"{world}-gateway"


def genesis_config(world: str) -> str:
    """Returns the name of the ConfigMap with the genesis document."""
    return f"{world}-genesis"


def node_config(world: str) -> str:
    """Returns the name of the ConfigMap with the nodes' configuration and their peers."""
    return f"{world}-config"


def membership_config(world: str) -> str:
    """Returns the name of the ConfigMap with the statements that governance has signed."""
    return f"{world}-membership"


def sequencer_lease(world: str) -> str:
    """Returns the name of the writer's Lease."""
    return f"{world}-sequencer"


def key_secret(key: str, generation: int) -> str:
    """Returns the name of the Secret with one generation of a MembershipKey."""
    return f"{key}-g{generation}"


def key_folder_secret(validator: str) -> str:
    """Returns the name of the Secret that a validator's pod mounts as its key folder."""
    return f"{validator}-keys"


def identity_secret(validator: str) -> str:
    """Returns the name of the Secret with a validator's network identity."""
    return f"{validator}-identity"


def peer_address(pod: str, *, world: str, namespace: str, port: int) -> str:
    """Returns the address under which a pod is reached by its peers, whatever its IP is at the moment."""
    return f"{pod}.{peers_service(world)}.{namespace}.svc:{port}"
