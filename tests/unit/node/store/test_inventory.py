"""The table of blobs: why each is needed, where it is, and what is wrong with it."""

from __future__ import annotations

import sqlite3

import pytest

from agentworld_core.hashing import content_id
from agentworld_node.storage.blob_store import BlobEntry
from agentworld_node.storage.errors import StorageFailed
from agentworld_node.store.inventory import Amount, Finding, Inventory, Problem

NAMES = [content_id(b"%d" % number) for number in range(2_500)]


def test_needed_and_stored_blobs_are_told_apart_in_any_order() -> None:
    with Inventory() as inventory:
        inventory.found(BlobEntry(name, 10, number) for number, name in enumerate(NAMES[:2_000]))
        for height, name in enumerate(NAMES[1_000:], start=1):
            inventory.need(name, "block", height)
            inventory.need(name, "batch", height + 1)
        inventory.judge(NAMES[0], damaged=True)
        inventory.judge(NAMES[1_000], damaged=True)
        findings = {finding.blob_hash: finding for finding in inventory.findings()}
        assert findings.pop(NAMES[0]) == Finding(NAMES[0], Problem.damaged, "unreferenced", 0)
        assert findings.pop(NAMES[1_000]) == Finding(NAMES[1_000], Problem.damaged, "block", 1)
        assert list(findings) == sorted(NAMES[2_000:])
        assert findings[NAMES[2_499]] == Finding(NAMES[2_499], Problem.missing, "block", 1_500)
        assert (inventory.amount(), inventory.amount(unreferenced=True)) == (
            Amount(2_000, 20_000),
            Amount(1_000, 10_000),
        )
        assert [entry.blob_hash for entry in inventory.unreferenced()] == NAMES[:1_000]
        assert inventory.lacking_heights("block") == list(range(1_001, 1_501))
        assert inventory.lacks(NAMES[2_000])
        assert not inventory.lacks(NAMES[1_000])
        inventory.gone(NAMES[1_000])
        assert inventory.lacks(NAMES[1_000])


def test_the_table_may_change_while_it_is_read() -> None:
    with Inventory() as inventory:
        for name in NAMES:
            inventory.need(name, "block", 1)
        for finding in inventory.findings():
            inventory.found([BlobEntry(finding.blob_hash, 1, 0)])
        assert list(inventory.findings()) == []
        for name in inventory.stored():
            inventory.gone(name)
        assert inventory.amount() == Amount()


def test_no_room_for_the_table_is_told() -> None:
    with pytest.raises(StorageFailed, match="cannot be kept"), Inventory():
        raise sqlite3.OperationalError("database or disk is full")
