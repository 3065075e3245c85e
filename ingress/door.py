"""The ZeroMQ door: clients' calls into the pipeline that HTTP uses, and its bodies back.

A stream's events go out as they are appended to its events. When its client leaves, the replay stays for the grace
time, here or for `Resume` at another ingress of this host, which asks this one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from bus.curve import CurveServer
from bus.messages.clients import (
    Call,
    CallFailed,
    Cancel,
    Chunk,
    Forget,
    Reply,
    Resume,
    StreamEnd,
    ToIngressFromClient,
)
from bus.messages.common import Bye
from bus.names import BATCH, CLIENTS_DOOR
from bus.process import Life
from bus.server import Peer, Server
from ingress.api.answer import envelope, is_failure, told_failure
from ingress.api.events import Events
from ingress.api.jobs import Caller, owner_of, traceparent
from ingress.api.once import Kept
from ingress.api.pipeline import OPEN, Pipeline
from ingress.errors import ApiError, draining, internal, invalid_request, overloaded, too_large
from ingress.replay import EventsGone

log = logging.getLogger(__name__)

ROLES: Final = ("client", "cli", "tui", "ingress")
BATCH_OWNER: Final = owner_of(BATCH)  # of answers to lines
MAX_CALLS: Final = 1024  # open at once for one peer
Last = Reply | StreamEnd | CallFailed

_CANCELLED: Final = "cancelled by the client"


class Door:
    """The clients' door of one ingress.

    Args:
        life: the process it is in.
        pipeline: does everything that is not ZeroMQ.
        max_body: bytes of a call's body; more is 413.
        address: `tcp://…` instead of the socket file in the run directory; needs `curve`.

    Raises:
        zmq.ZMQError: the address is taken.
    """

    def __init__(
        self,
        life: Life,
        pipeline: Pipeline,
        *,
        max_body: int,
        address: str | None = None,
        curve: CurveServer | None = None,
    ) -> None:
        self._pipeline, self._max_body = pipeline, max_body
        self._address = "127.0.0.1" if address is None else ""  # over tcp it is not known
        self._calls: dict[tuple[Peer, int], asyncio.Task[None]] = {}
        self._draining = False
        self._sent_away: set[str] = set()  # clients that were, since the drain began
        self._server: Server[Any] = Server(
            life,
            CLIENTS_DOOR,
            "clients",
            ToIngressFromClient,
            roles=ROLES if address is not None else (*ROLES, "batch"),  # that one is of this host
            on_message=self._hear,
            on_leave=self._left,
            address=address,
            curve=curve,
        )

    @property
    def endpoint(self) -> str:
        """The address as bound."""
        return self._server.endpoint

    @property
    def busy(self) -> bool:
        """Whether any call is not completely answered."""
        return bool(self._calls)

    def drain(self) -> None:
        """Take no new calls; streams that are here can still be resumed. Lines of batches are asked for elsewhere."""
        self._draining = True
        for peer in tuple(self._server.peers.values()):
            if _is_batch(peer):
                self._server.send(peer, Bye("draining"))
                self._server.leave(peer, "sent away")

    def undrain(self) -> None:
        """Take calls again."""
        self._draining = False
        self._sent_away.clear()

    def close(self) -> None:
        """Leave every client."""
        for task in self._calls.values():
            task.cancel()
        self._server.close()

    # --- messages --------------------------------------------------------------------------------------------------

    def _hear(self, peer: Peer, message: Call | Cancel | Resume | Forget) -> None:
        match message:
            case Call() if self._draining:
                self._send_away(peer, message)
            case Call() | Resume():
                self._begin(peer, message)
            case Cancel():
                self._cancel(peer, message.call, _CANCELLED)
            case Forget() if _is_batch(peer):
                self._pipeline.forget_all(message.responses, BATCH_OWNER)

    def _begin(self, peer: Peer, message: Call | Resume) -> None:
        if (peer, message.call) in self._calls:
            return  # repeated
        mine = sum(owner is peer for owner, _ in self._calls) if len(self._calls) >= MAX_CALLS else 0
        if mine >= MAX_CALLS:
            full = overloaded(f"This client has {MAX_CALLS} calls open.", 1.0)
            self._server.send(peer, _failed(message.call, full))
            return
        self._calls[peer, message.call] = asyncio.ensure_future(self._answer(peer, message))

    def _send_away(self, peer: Peer, call: Call) -> None:
        """A client that is left goes to a sibling with all its calls. One that comes back has found none: it is told
        so, and left again, so that it looks anew when it next tries."""
        if peer.name in self._sent_away:
            self._server.send(peer, _failed(call.call, draining()))
            if any(owner is peer for owner, _ in self._calls):
                return
        self._sent_away.add(peer.name)
        self._server.send(peer, Bye("draining"))
        self._server.leave(peer, "sent away")

    def _left(self, peer: Peer, reason: str) -> None:  # noqa: ARG002 (the server's interface)
        for owner, call in tuple(self._calls):
            if owner is peer:
                self._cancel(peer, call, "the client left")

    def _cancel(self, peer: Peer, call: int, why: str) -> None:
        if (task := self._calls.pop((peer, call), None)) is not None:
            task.cancel(why)

    # --- calls -----------------------------------------------------------------------------------------------------

    async def _answer(self, peer: Peer, message: Call | Resume) -> None:
        try:
            last = await (self._call(peer, message) if isinstance(message, Call) else self._resume(peer, message))
        except ApiError as error:
            last = _failed(message.call, error)
        except Exception:
            log.exception("while answering a call of %s", peer.name)
            last = _failed(message.call, internal("An unexpected error; it has been logged."))
        # The number is free before the client can know it.
        if self._calls.pop((peer, message.call), None) is not None:
            self._server.send(peer, last)

    async def _call(self, peer: Peer, call: Call) -> Last:
        if len(call.body) > self._max_body:
            raise too_large(f"The body is larger than {self._max_body} bytes ([ingress] max_body).")
        if _is_batch(peer):
            return await self._line(call)
        caller = Caller(
            "",
            owner_of(call.authorization),
            self._pipeline.now_ns(),
            traceparent=traceparent(call.traceparent),
            authorization=call.authorization,
            sibling=peer.role == "ingress",
        )
        if call.operation not in OPEN:
            address = None if caller.sibling else self._address
            caller = await self._pipeline.identify(caller, call.authorization, address)
        if call.once:
            answer = await self._pipeline.answer_once(call.operation, call.body, caller, call.once)
        else:
            answer = await self._pipeline.answer(call.operation, call.body, caller)
        if isinstance(answer, Kept):
            return Reply(call.call, await self._read(answer, comes_back=bool(call.once)))
        if isinstance(answer, bytes):
            return Reply(call.call, bytes(answer))
        return await self._follow(peer, call.call, answer, 0)

    async def _line(self, call: Call) -> Last:
        """A line of a batch. Whose it is, the batch process was told by an ingress that had seen the key."""
        caller = Caller("", BATCH_OWNER, self._pipeline.now_ns(), batch=True, authorization=BATCH)
        caller = await self._pipeline.on_behalf(caller, call.behalf)
        answer = await self._pipeline.answer_once(call.operation, call.body, caller, call.once)
        if isinstance(answer, bytes):
            return Reply(call.call, bytes(answer))
        if not isinstance(answer, Kept):
            self._pipeline.forget(answer)
            raise invalid_request("A line of a batch is answered in one piece.", param="stream")
        return Reply(call.call, await self._read(answer, comes_back=True))

    async def _read(self, answer: Kept, *, comes_back: bool) -> bytes:
        """An answer in one body. A client that cancels ends what nobody else waits for, and so does one that leaves and
        has no key to come back with."""
        events = answer.events
        events.attach()
        try:
            return await answer.read(events)
        except asyncio.CancelledError as cancelled:
            if events.listeners == 1:
                if not comes_back:
                    events.abandon()
                elif _CANCELLED in cancelled.args:
                    self._pipeline.forget(events)
            raise
        finally:
            events.detach(self._pipeline.now_ns())

    async def _resume(self, peer: Peer, resume: Resume) -> Last:
        if peer.role != "ingress":  # a sibling has asked for the key itself
            await self._pipeline.identify(Caller("", "", self._pipeline.now_ns()), resume.authorization, self._address)
        events = await self._pipeline.resume(
            resume.response_id,
            resume.authorization,
            resume.last_event,
            ask_siblings=peer.role != "ingress",  # a sibling has asked all the others itself
        )
        if peer.role == "ingress":
            # It asks several: what it has already says that the stream is here, even if that has nothing new to say.
            self._server.send(peer, Chunk(resume.call, resume.last_event, b""))
        return await self._follow(peer, resume.call, events, resume.last_event)

    async def _follow(self, peer: Peer, call: int, events: Events, after: int) -> Last:
        last: Last = StreamEnd(call)

        def hear(number: int, body: bytes) -> bool:
            nonlocal last
            if is_failure(body):
                last = CallFailed(call, told_failure(body).status, body)
                return False
            self._server.send(peer, Chunk(call, number, body))
            return True

        events.attach()
        wanted = True
        try:
            await events.follow(after, hear)
            return last
        except EventsGone as gone:
            raise ApiError(410, "invalid_request_error", f"{gone}", code="events_gone") from None
        except asyncio.CancelledError as cancelled:
            # A client that leaves may come back for the rest; one that cancels said that it will not.
            wanted = _CANCELLED not in cancelled.args
            raise
        finally:
            events.detach(self._pipeline.now_ns())
            if not wanted and not events.listeners:
                events.abandon()


def _is_batch(peer: Peer) -> bool:
    """Whether it is the batch process of this host: by its name, which the kernel lets one process have, and by the
    user that it runs as, which is this one's."""
    return peer.role == "batch" and peer.name == BATCH and peer.credentials is not None


def _failed(call: int, error: ApiError) -> CallFailed:
    return CallFailed(call, error.status, envelope(error), error.retry_after_s or 0.0)
