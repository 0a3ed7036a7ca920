"""The node: disks, sockets, processes and HTTP around the pure decisions of agentworld_core."""
