"""The world: its state tree, its actions and events, and the kernel that turns one into the other.

Nothing here knows of blocks, votes or nodes. State is changed by applying events and in no other way, so that a journal
of events replayed from the genesis state gives the same root as the actions that caused them.
"""
