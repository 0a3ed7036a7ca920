"""The command ``agentworld``: run nodes and worlds, act as a client, verify."""

from agentworld_node.cli.app import main

__all__ = ["main"]
