"""The operator's way to the nodes: their status, and what governance tells them."""
