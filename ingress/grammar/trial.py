"""Every grammar is tried before anybody depends on it, in a process with bounds of its own, and its outcome is kept.

One process tries one grammar after the other; tenants take turns, so one that sends a hundred of them waits for itself.
If the process ends over a grammar, the grammar is tried once more, in another: it may have been somebody else's doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Final

import msgspec

from bus.grammars import MAX_TEXT
from bus.messages.requests import Grammar
from bus.packed import pack_u32
from bus.vocabulary import Held, Vocabulary, hold
from ingress.errors import ApiError, internal, invalid_request, overloaded
from ingress.grammar.frames import LENGTH_BYTES, SECONDS, Tried
from ingress.text.tokenizer import Tokenizer

KEPT: Final = 1024  # outcomes
WAITING: Final = 64  # grammars that wait to be tried
ATTEMPTS: Final = 2
# By the clock: a process that computes too much ends by itself, so one that is not heard of waits for the machine.
PATIENCE_S: Final = 5.0 * SECONDS

_COMMAND: Final = (sys.executable, "-m", "ingress.grammar.tried")


class Trials:
    """Grammars of one ingress.

    Args:
        run: the run directory, where workers find what tokens are.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._kept: OrderedDict[bytes, Tried] = OrderedDict()
        self._vocabularies: dict[Tokenizer, Held] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._lane = asyncio.Lock()
        self._waiting = 0
        self._process: asyncio.subprocess.Process | None = None

    async def tried(self, text: str, param: str, tenant: str) -> str:
        """The grammar as workers take it.

        Args:
            param: where it was asked for.
            tenant: whose turn it takes.

        Raises:
            ApiError: 400, it cannot be used; 429, too many wait, or the machine is too busy.
        """
        if len(text) > MAX_TEXT:
            raise _refused(param, f"its grammar has more than {MAX_TEXT} characters", "schema_too_complex")
        key = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        if (outcome := self._kept.get(key)) is None:
            outcome = await self._wait(text, tenant, param)
            self._kept[key] = outcome
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        if outcome.trouble:
            raise _refused(param, outcome.trouble, "invalid_schema")
        return outcome.text

    def grammar(self, text: str, tokenizer: Tokenizer, ends: tuple[int, ...]) -> Grammar:
        """One that was tried, as a request carries it.

        Raises:
            ApiError: 400, the model's sequences have no end; 500, the run directory is full.
        """
        if not ends:
            raise invalid_request("This model has no token that ends an answer, so none can be asked to be whole.")
        return Grammar(text, self.vocabulary(tokenizer, ends))

    def vocabulary(self, tokenizer: Tokenizer, ends: tuple[int, ...]) -> bytes:
        """The digest under which workers find what a model's tokens are.

        Raises:
            ApiError: 500, the run directory is full.
        """
        held = self._vocabularies.get(tokenizer)
        if held is None:
            tokens = tuple(map(tokenizer.token_bytes, range(tokenizer.vocabulary)))
            try:
                held = hold(self._run, Vocabulary(tokens, pack_u32(tokenizer.control_ids), pack_u32(ends)))
            except OSError as error:
                raise internal(f"The model's tokens cannot be written down: {error.strerror}.") from None
            self._vocabularies[tokenizer] = held
        return held.digest

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _wait(self, text: str, tenant: str, param: str) -> Tried:
        if self._waiting >= WAITING:
            raise overloaded(f"{self._waiting} schemas and grammars are waiting to be tried.", 1.0)
        self._waiting += 1
        turn = self._turns.setdefault(tenant, asyncio.Lock())
        try:
            async with turn, self._lane:
                return await self._try(text, param)
        finally:
            self._waiting -= 1
            if not turn.locked():
                self._turns.pop(tenant, None)

    async def _try(self, text: str, param: str) -> Tried:
        for _ in range(ATTEMPTS):
            process = await self._running()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await _ask(process, text)
            except TimeoutError:
                self.close()
                self._process = None
                raise overloaded("The machine is too busy to read a schema or a grammar.", 5.0) from None
            except (asyncio.IncompleteReadError, ConnectionError):
                self.close()
                self._process = None
            except asyncio.CancelledError:
                self.close()  # its answer would be taken for that of the next one
                self._process = None
                raise
        raise _refused(param, f"it takes more than {SECONDS} s, or too much memory, to read it", "schema_too_complex")

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=pipe, stdout=pipe)
        return self._process


async def _ask(process: asyncio.subprocess.Process, text: str) -> Tried:
    assert process.stdin is not None
    assert process.stdout is not None
    data = text.encode("utf-8", "replace")
    process.stdin.write(len(data).to_bytes(LENGTH_BYTES, "little") + data)
    await process.stdin.drain()
    length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "little")
    return msgspec.msgpack.decode(await process.stdout.readexactly(length), type=Tried)


def _refused(param: str, why: str, code: str) -> ApiError:
    return invalid_request(f"{param}: {why}.", param=param, code=code)
