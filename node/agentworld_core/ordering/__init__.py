"""What waits for a block and who may make it: the mempool, the batch rules and the writer's lease."""
