"""Pure decisions of agent-world: no I/O, no clock, no randomness, no await.

Everything here is given the time and its input and returns what to do, so that the same code runs in the node,
in the operator, in the verifier and in the simulator.
"""
