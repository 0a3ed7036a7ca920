"""Hands the writer lease to a named validator on governance's wish, and tells the others when it is free or has moved.

Any node takes the wish and passes it to the holder. The holder asks the target whether it could write, begins no more
blocks, lets the one that is under way be decided, makes the target the holder in the store of the lease, and has it
renew at once. Nothing depends on this going well: whoever the store names in the end, writes, in a term of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.view import HeightView
from agentworld_core.errors import AgentWorldError, Busy, NotAvailable, StateMismatch, TimedOut, Unauthorized
from agentworld_core.membership.directory import find_member
from agentworld_core.messages import Directory
from agentworld_core.names import protocol
from agentworld_core.ordering.transfer import Readiness, Writer, WriterTransfer, check_term, check_transfer
from agentworld_node.lease.loop import LeaseLoop
from agentworld_node.ledger import Ledger
from agentworld_node.network.port import Network
from agentworld_node.roles.keyring import NodeKeyring

log = logging.getLogger(__name__)

GET_WRITER = protocol("get_writer")
TRANSFER_WRITER = protocol("transfer_writer")
PREPARE_WRITER = protocol("prepare_writer")
TAKE_WRITER = protocol("take_writer")
LEASE_CHANGED = protocol("lease_changed")
MESSAGE_LIMIT = 16 * 1024
ASK_SECONDS = 2.0
FINISH_SECONDS = 0.5
STORE_SECONDS = 5.0
TAKE_SECONDS = 5.0
WHOLE_SECONDS = 15.0
BLOCKS_BEHIND = 2
"""As many blocks the target may be behind: it has them before it proposes."""
CATCH_UP_SECONDS = 2.0
"""For so long it is asked again: where blocks come quickly, everybody is behind for a moment at times."""
ASK_AGAIN_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the role asks of its node: who writes, whether it could itself, and what is being decided."""

    node_id: str
    writer: Callable[[], tuple[str | None, int]]
    unfit: Callable[[], str | None]
    view: Callable[[], HeightView | None]


class HandOver:
    """Carries transfers of the lease out, on all three sides: who is asked, who holds it, and who gets it."""

    def __init__(
        self,
        around: Surroundings,
        *,
        ledger: Ledger,
        keyring: NodeKeyring,
        network: Network,
        lease: LeaseLoop | None,
    ):
        self._around = around
        self._ledger = ledger
        self._keyring = keyring
        self._network = network
        self._lease = lease
        self._asked = False
        self.under_way = False

    def start(self) -> None:
        """Serves its part to other nodes."""
        self._network.serve(GET_WRITER, self._serve_writer)
        self._network.serve(TRANSFER_WRITER, self._serve_transfer)
        self._network.serve(PREPARE_WRITER, self._serve_prepare)
        self._network.serve(TAKE_WRITER, self._serve_take)
        self._network.serve(LEASE_CHANGED, self._serve_changed)

    async def writer(self) -> Writer:
        """Returns who holds the lease: as seen here, or as a validator says where this node does not see the lease."""
        if self._lease is not None or self._ledger.genesis.parameters.leaseless:
            return Writer(*self._around.writer())
        return decode(Writer, await self._ask_members(GET_WRITER, b""), limit=MESSAGE_LIMIT)

    async def transfer(self, wish: WriterTransfer) -> Writer:
        """Carries a wish out, wherever the lease is held, and returns the new writer; a typed error if it may not be.

        The wish is checked here and again at the holder. A target that writes already is no error.
        """
        self._check(wish)
        if self._lease is None:
            return decode(Writer, await self._ask_members(TRANSFER_WRITER, encode(wish)), limit=MESSAGE_LIMIT)
        writer = Writer(*self._around.writer())
        if writer.holder_id == wish.target_id:
            return writer
        check_term(wish, writer)
        if writer.holder_id == self._around.node_id:
            return await self._hand_over(wish, self._lease)
        peer_id = self._peer(str(writer.holder_id))
        answer = await self._network.request(peer_id, TRANSFER_WRITER, encode(wish), timeout=WHOLE_SECONDS)
        return decode(Writer, answer, limit=MESSAGE_LIMIT)

    async def finish(self) -> None:
        """Begins no more blocks, and returns when the one under way is decided, or nothing of it has come for too long.

        Members that went to the next term with half of its votes would have to find each other again.
        """
        self.under_way = True
        view = self._around.view()
        if view is not None and view.proposal is not None and view.proposer == self._around.node_id:
            await self._ledger.wait_height(view.height, seconds=FINISH_SECONDS)

    async def tell_all(self) -> None:
        """Tells all members in touch that the lease has changed, so that they look now; some may not answer."""
        peers = [peer_id for peer_id in self._member_peers() if peer_id in self._network.connected()]
        told = (self._network.request(peer_id, LEASE_CHANGED, b"", timeout=ASK_SECONDS) for peer_id in peers)
        for outcome in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(outcome, BaseException):
                log.debug("a member was not told that the lease has changed: %s", outcome)

    async def _hand_over(self, wish: WriterTransfer, lease: LeaseLoop) -> Writer:
        if self._asked:
            raise Busy("another hand-over is under way", remedy="wait for it")
        target, peer_id = wish.target_id, self._peer(wish.target_id)
        if peer_id not in self._network.connected():
            raise NotAvailable("is not in touch with the writer", field="target_id", value=target)
        self._asked = True
        began = time.monotonic()
        try:
            await self._check_ready(target, peer_id, wish)
            # Only now: a target that cannot write costs no block.
            await self.finish()
            term = await _within(
                STORE_SECONDS, lease.hand_over(target), "the store of the lease did not answer in time"
            )
            log.info("the writer lease goes to %s, term %d", target, term)
            try:
                answer = await self._network.request(peer_id, TAKE_WRITER, encode(wish), timeout=TAKE_SECONDS)
            except AgentWorldError as error:
                raise NotAvailable(
                    f"{target} holds the lease in term {term} and has not begun to write: {error}",
                    remedy="others take it once it expires",
                ) from error
            await self.tell_all()
        finally:
            self._asked = self.under_way = False
        log.info("%s writes, %.0f ms after it was asked for", target, (time.monotonic() - began) * 1000)
        return decode(Writer, answer, limit=MESSAGE_LIMIT)

    async def _check_ready(self, target: str, peer_id: str, wish: WriterTransfer) -> None:
        until = time.monotonic() + CATCH_UP_SECONDS
        while (unready := await self._unready(target, peer_id, wish)) is not None:
            if time.monotonic() >= until:
                raise unready
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _unready(self, target: str, peer_id: str, wish: WriterTransfer) -> NotAvailable | None:
        """Returns why the target cannot write now, None when it can; raises NotAvailable when it does not answer."""
        try:
            answer = await self._network.request(peer_id, PREPARE_WRITER, encode(wish), timeout=ASK_SECONDS)
        except AgentWorldError as error:
            raise NotAvailable(
                f"does not answer, and nothing was changed: {error}",
                field="target_id",
                value=target,
                remedy="choose another validator",
            ) from error
        ready = decode(Readiness, answer, limit=MESSAGE_LIMIT)
        if ready.reason is not None:
            return NotAvailable(f"cannot write now: {ready.reason}", field="target_id", value=target)
        behind = self._ledger.height - ready.height
        if behind > BLOCKS_BEHIND:
            return NotAvailable(f"is {behind} blocks behind", field="target_id", value=target, remedy="wait for it")
        return None

    # The other sides

    async def _serve_writer(self, _peer_id: str, _payload: bytes) -> bytes:
        if self._lease is None:
            raise NotAvailable("this node does not see the lease")
        return encode(Writer(*self._around.writer()))

    async def _serve_transfer(self, peer_id: str, payload: bytes) -> bytes:
        wish = decode(WriterTransfer, payload, limit=MESSAGE_LIMIT)
        if self._lease is None:
            raise NotAvailable("this node does not see the lease")
        holder = self._around.writer()[0]
        if holder not in (self._around.node_id, wish.target_id) and peer_id in self._member_peers():
            # It was passed on by who saw the lease here; were it passed on again, it could go round.
            raise StateMismatch("this node does not hold the lease", field="holder", value=holder)
        return encode(await self.transfer(wish))

    async def _serve_prepare(self, _peer_id: str, payload: bytes) -> bytes:
        self._check_target(decode(WriterTransfer, payload, limit=MESSAGE_LIMIT))
        reason = self._around.unfit()
        if self._lease is None or not self._lease.sight().answers:
            reason = reason or "the store of the lease does not answer it"
        return encode(Readiness(reason, self._ledger.height))

    async def _serve_take(self, _peer_id: str, payload: bytes) -> bytes:
        self._check_target(decode(WriterTransfer, payload, limit=MESSAGE_LIMIT))
        if self._lease is None or self._around.unfit() is not None:
            raise NotAvailable("this node cannot write")
        term = await _within(TAKE_SECONDS, self._lease.taken(), "the lease could not be taken in time")
        return encode(Writer(self._around.node_id, term))

    async def _serve_changed(self, peer_id: str, _payload: bytes) -> bytes:
        if peer_id not in self._member_peers():
            raise Unauthorized("is no member", field="peer_id", value=peer_id)
        if self._lease is not None:
            self._lease.poke()
        return b""

    # Checks and places

    def _check(self, wish: WriterTransfer) -> None:
        check_transfer(
            wish,
            self._directory(),
            revoked_key_ids=self._keyring.revoked_key_ids(),
            now_ms=time.time_ns() // 1_000_000,
        )

    def _check_target(self, wish: WriterTransfer) -> None:
        self._check(wish)
        if wish.target_id != self._around.node_id:
            raise StateMismatch("is another node", field="target_id", value=wish.target_id)

    def _directory(self) -> Directory:
        return self._ledger.directory_at(self._ledger.chain.next_height)

    def _member_peers(self) -> list[str]:
        own = self._network.peer_id
        return [member.peer_id for member in self._directory().members if member.peer_id not in ("", own)]

    def _peer(self, member_id: str) -> str:
        member = find_member(self._directory(), member_id)
        if member is None or not member.peer_id:
            raise NotAvailable("cannot be reached: its network identity is not known", field="node", value=member_id)
        return member.peer_id

    def _candidates(self) -> Iterator[str]:
        """Yields the members in touch, who wrote last first: it is likely to hold the lease."""
        last = self._around.writer()[0]
        members = sorted(self._directory().members, key=lambda member: member.member_id != last)
        for member in members:
            if member.peer_id in self._network.connected():
                yield member.peer_id

    async def _ask_members(self, name: str, payload: bytes) -> bytes:
        """Returns the first answer of a member; an answer that is a refusal for good is one."""
        last: AgentWorldError = NotAvailable("no validator is in touch with this node", remedy="ask a validator")
        for peer_id in self._candidates():
            try:
                return await self._network.request(peer_id, name, payload, timeout=WHOLE_SECONDS)
            except AgentWorldError as error:
                if not error.retryable or name == TRANSFER_WRITER:
                    raise
                last = error
        raise last


async def _within(seconds: float, work: Coroutine[Any, Any, int], message: str) -> int:
    """Returns the result of the work; TimedOut when it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise TimedOut(message, remedy="see agentworld consensus status") from error
