"""Runs the command line: ``python -m agentworld_node``."""

from agentworld_node.cli import main

main()
