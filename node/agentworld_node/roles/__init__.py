"""What a node does: order, vote, follow, take actions, keep membership. Each role drives a pure decision of the core."""
