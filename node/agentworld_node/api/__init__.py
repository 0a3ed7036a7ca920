"""The HTTP side of a node: the gateway for clients, the control API for governance, probes and metrics."""
