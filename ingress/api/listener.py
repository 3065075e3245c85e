"""Taking connections from the shared port, and leaving it so that nobody who is on the way in is turned away.

Closing a listening socket resets the connections in its queue, and those whose handshake is under way: the kernel has
already dealt them to this process, and no sibling can have them. So the socket first takes no more of them, is emptied
when the handshakes must be through, and only then closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from ingress.api.port import Port

log = logging.getLogger(__name__)


class Listener:
    """Listens from the beginning, until `leave`.

    Args:
        port: is closed with it.
        factory: makes a protocol for each connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, port: Port, factory: Callable[[], asyncio.Protocol]) -> None:
        self._loop, self._port, self._factory = loop, port, factory
        self._server: asyncio.Server | None = None
        self._wanted = True
        self._held = False  # the port is ours, and nothing listens
        # Until this task has run, connections wait in the socket's backlog.
        self._task = loop.create_task(self._serve())

    @property
    def leaving(self) -> bool:
        """Whether connections may still come, although no more are wanted."""
        return not self._wanted and not self._task.done()

    def leave(self) -> None:
        """Take no more connections, once those that are on the way are here. Idempotent."""
        if self._wanted:
            self._wanted = False
            self._port.ignore()
            self._task = self._loop.create_task(self._leave(self._task))

    def come_back(self) -> None:
        """Take connections again. Idempotent."""
        if self._wanted:
            return
        self._wanted = True
        if self._held:
            self._held = False
            self._port.listen()
            self._task = self._loop.create_task(self._serve())
        else:
            self._task.cancel()  # it waits for handshakes; the socket still listens
            self._port.heed()
            self._task = self._loop.create_task(self._serve())

    def close(self) -> None:
        """Give the port back at once."""
        self._task.cancel()
        if self._server is not None:
            self._server.close()
        self._port.close()

    async def _serve(self) -> None:
        if self._server is None:
            self._server = await self._loop.create_server(self._factory, sock=self._port.socket)

    async def _leave(self, serving: asyncio.Task[None]) -> None:
        await asyncio.shield(serving)
        await asyncio.sleep(self._port.handshake_s)
        # This loop may have been held up for as long: what the server has not seen yet is taken here. From the first
        # look into the queue until the socket is closed there is no await, so nothing comes in between.
        queued = list(iter(self._port.next, None))
        listening = self._port.hold()
        self._held = True
        if self._server is not None:
            self._server.close()
            self._server = None
        listening.close()
        log.info("left port %d to others", self._port.number)
        await asyncio.gather(*(self._take(connection) for connection in queued))

    async def _take(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError as error:
            connection.close()
            log.info("a connection was lost as it was taken: %s", error)
