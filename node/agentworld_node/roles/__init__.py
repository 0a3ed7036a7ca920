"""What a node does: order, vote, follow, take actions, keep membership; each role drives pure decisions of the core."""
