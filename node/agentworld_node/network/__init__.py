"""How nodes reach each other: one port, an adapter in memory for tests and one on libp2p for real networks."""
