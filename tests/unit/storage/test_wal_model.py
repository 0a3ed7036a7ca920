"""The log against a list, under crashes that tear, kills, failing syncs and full disks, in any order."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentworld_node.storage.errors import LogFailed, StorageFull
from agentworld_node.storage.wal import WriteAheadLog
from tests.unit.storage.faults import CrashDisk, PowerCut

ROOT = Path("/disk")
FOLDER = ROOT / "wal"


class LogMachine(RuleBasedStateMachine):
    """After any crash the log is a prefix of what was appended, and holds at least what was synced."""

    def __init__(self):
        super().__init__()
        self.appended: list[tuple[int, bytes]] = []
        self.durable = 0
        self.failed = False

    @initialize(seed=st.integers(0, 2**32), segment_bytes=st.sampled_from([1, 150, 400, 10**6]))
    def start(self, seed, segment_bytes):
        self.disk = CrashDisk(ROOT, seed=seed)
        self.segment_bytes = segment_bytes
        self.open()

    def open(self):
        self.disk.capacity = None
        self.log = WriteAheadLog.open(FOLDER, files=self.disk, segment_bytes=self.segment_bytes)
        self.failed = False
        survived = self.log.last_sequence
        assert self.durable <= survived <= len(self.appended)
        del self.appended[survived:]
        self.durable = survived

    @precondition(lambda self: not self.failed)
    @rule(kind=st.integers(0, 3), payload=st.binary(max_size=80))
    def append(self, kind, payload):
        assert self.log.append(kind, payload) == len(self.appended) + 1
        self.appended.append((kind, payload))

    @precondition(lambda self: not self.failed)
    @rule()
    def sync(self):
        try:
            self.log.sync_now()
        except StorageFull:
            assert self.disk.capacity is not None
            self.durable = self.log.durable_sequence
        else:
            self.durable = len(self.appended)
            assert self.log.durable_sequence == self.durable

    @precondition(lambda self: not self.failed)
    @rule(free=st.integers(0, 300))
    def fill_disk(self, free):
        self.disk.capacity = self.disk.used() + free

    @rule()
    def free_disk(self):
        self.disk.capacity = None

    @precondition(lambda self: not self.failed and len(self.appended) > self.durable)
    @rule()
    def sync_fails(self):
        self.disk.failing_syncs = 1
        try:
            self.log.sync_now()
        except LogFailed:
            self.failed = True
        except StorageFull:
            pass
        else:
            pytest.fail("a failing sync was not told")
        self.disk.failing_syncs = 0
        self.durable = self.log.durable_sequence

    @precondition(lambda self: not self.failed)
    @rule(before=st.integers(0, 60))
    def prune(self, before):
        first = self.log.first_sequence
        self.log.prune(before)
        assert first <= self.log.first_sequence <= max(first, before)

    @rule()
    def crash(self):
        self.disk.crash()
        self.open()

    @rule()
    def kill(self):
        self.disk.kill()
        self.open()

    @precondition(lambda self: not self.failed)
    @rule(operations=st.integers(1, 12), machine_too=st.booleans())
    def dies_while_working(self, operations, machine_too):
        self.disk.cut_power_in(operations)
        try:
            self.log.append(1, b"last words")
            self.appended.append((1, b"last words"))
            self.log.sync_now()
            self.durable = len(self.appended)
            self.log.prune(self.durable)
        except (PowerCut, LogFailed, StorageFull):
            self.durable = max(self.durable, self.log.durable_sequence)
        if machine_too:
            self.disk.crash()
        else:
            self.disk.kill()
        self.open()

    @precondition(lambda self: not self.failed)
    @rule()
    def close_and_open(self):
        self.disk.capacity = None
        self.log.close()
        self.durable = len(self.appended)
        self.open()
        assert self.log.torn is None

    @invariant()
    def reads_what_is_durable(self):
        if self.failed or not hasattr(self, "log"):
            return
        first = self.log.first_sequence
        read = [(record.kind, record.payload) for record in self.log.records()]
        assert read == self.appended[first - 1 : self.durable]


LogMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLogModel = LogMachine.TestCase
