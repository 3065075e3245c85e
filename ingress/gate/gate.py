"""The gate of one ingress: it tells callers apart; requests reserve before they are served and settle at their end."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bus.config import AccountsConfig
from bus.identity import Identity
from bus.messages.accounts import Directory, Follow, Granted, Key, Recall, Settle, Settled
from bus.prices import Price, PriceBook
from ingress.gate import keys, refusals
from ingress.gate.estimate import Estimates
from ingress.gate.headers import Header, rate_limit_headers
from ingress.gate.leases import Actual, Bucket, Leases, Want
from ingress.gate.link import AccountsLink
from ingress.gate.roster import Grantee, Roster
from ingress.gate.running import Running
from ingress.gate.scans import Scans

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
PATIENCE_S: Final = 0.5  # for the accounts process to answer; longer is as good as gone
START_S: Final = 5.0  # for the directory to come, at the beginning
TRIES: Final = 4
MAX_HELD_BACK: Final = 256  # wrong keys whose answers are held back at once
ARRIVES_NS: Final = 500_000_000  # for a new key to be told to an ingress
LOOK_AGAIN_S: Final = 0.02


class Part(NamedTuple):
    """One choice of a call, as it counts.

    Attributes:
        input: tokens of the prompt; 0 where another choice has counted them.
        most: tokens that its answer has at the most.
        requests: 1 for one choice of a call.
        samples: that are drawn at once: of a beam search, its beams, whose tokens `most` counts all.
    """

    request: int
    input: int
    most: int
    requests: int
    samples: int = 1


class _Call(NamedTuple):
    """All choices together."""

    choices: int
    input: int
    price: Price


class Gate:
    """Keys, limits and budgets.

    Args:
        life: the process it is in.
        settings: of `[accounts]`.
        prices: what tokens are charged at.
        on_settled: settlements are written; on_up: the accounts process is another one than before.
    """

    def __init__(
        self,
        life: Identity,
        settings: AccountsConfig,
        prices: PriceBook,
        *,
        on_settled: Callable[[Settled], None],
        on_up: Callable[[], None],
    ) -> None:
        self._life, self._settings, self._prices = life, settings, prices
        self.leases = Leases(settings.share)
        self._roster = Roster(self.leases)
        self._known = asyncio.Event()
        self._estimates, self._scans = Estimates(), Scans()
        self._running: dict[int, Running] = {}  # of those that may need more than they have reserved
        self._asking: set[asyncio.Future[None]] = set()
        self._held_back = 0
        self._down_ns = life.loop.now_ns()  # since when nothing is answered; 0 where it is
        self._on_up = on_up
        self._link = AccountsLink(
            life, lines=lambda: self.leases.lines(life.loop.now_ns()),
            follow=lambda: Follow(self._roster.store, self._roster.revision), on_directory=self._directory,
            on_granted=self._granted, on_recall=self._recall, on_settled=on_settled, on_up=self._up,
            on_down=self._down,
        )  # fmt: skip
        self._cancels = [life.loop.every(TICK_S, self._tick), life.loop.every(0.5, self._idle)]

    # --- who -------------------------------------------------------------------------------------------------------

    async def identify(self, authorization: str, address: str | None) -> Grantee:
        """Whose key this is.

        Args:
            address: that the caller comes from; empty where that is not known, None where a sibling has looked.

        Raises:
            ApiError: 401, no good key; 403, not from there; 429, too many wrong ones; 503, keys are not known yet.
        """
        if not self._known.is_set():
            await self._wait_for_directory()
        shown, now_s = keys.parse(authorization), time.time()
        key = await self._find(shown.id) if shown is not None else None
        if shown is None or not keys.matches(shown, key, now_s) or key is None:
            await self._hold_back(address or "")
            raise refusals.no_key() if shown is None and not authorization else refusals.wrong_key()
        grantee = self._good(key, now_s)
        if address is not None and not grantee.may_come_from(address):
            raise refusals.forbidden("This API key may not be used from here.", code="network_not_allowed")
        return grantee

    async def on_behalf(self, id: str) -> Grantee:
        """Whose key an id is of: for calls that were asked for with that key, and are made later.

        Raises:
            ApiError: 401, the key is good no more; 503, keys are not known yet.
        """
        if not self._known.is_set():
            await self._wait_for_directory()
        if (key := self._roster.key(id)) is None:
            raise refusals.wrong_key()
        return self._good(key, time.time())

    def _good(self, key: Key, now_s: float) -> Grantee:
        """All that holds for a key whose owner is known.

        Raises:
            ApiError: 401, 503.
        """
        if key.revoked_s:
            raise refusals.revoked(key.id)
        if key.expires_s and now_s >= key.expires_s:
            raise refusals.expired(key.id)
        if (grantee := self._roster.grantee(key)) is None:
            raise refusals.unavailable("The project of this API key is not known here yet.")
        return grantee

    # --- how much --------------------------------------------------------------------------------------------------

    async def reserve(self, grantee: Grantee, model: str, parts: Sequence[Part]) -> None:
        """Reserve what a call needs, all of it or nothing.

        Raises:
            ApiError: 400, it never fits; 429, not now; 503, that cannot be found out.
        """
        buckets = grantee.buckets(model)
        if not buckets:
            return
        call = _Call(len(parts), sum(part.input for part in parts), self._prices.at(model, int(time.time())).dearest)
        wants = [(part.request, self._wants(grantee, model, part, call, buckets)) for part in parts]
        together = wants[0][1] if len(wants) == 1 else _together(wants)
        for bucket, amount in together:
            if amount > bucket.allowance.amount and bucket.allowance.dimension != "money":
                raise refusals.never_fits(bucket, amount)
        await self._have(together)
        self.leases.take(wants, self._life.loop.now_ns())
        for part in parts:
            output = self._estimates.output(grantee.key.id, model, part.most)
            running = Running(buckets, call.price, part.input, part.most, output)
            if running.limited:
                self._running[part.request] = running

    # --- how far ---------------------------------------------------------------------------------------------------

    def adopt(self, request: int, key: str, model: str, prompt_tokens: int, most: int) -> None:
        """An answer that another ingress has begun goes on here: what it costs from its beginning on is reserved of its
        budgets as it is drawn."""
        known = self._roster.key(key)
        grantee = self._roster.grantee(known) if known is not None else None
        if grantee is None or request in self.leases.reservations:
            return
        money = [bucket for bucket in grantee.buckets(model) if bucket.allowance.dimension == "money"]
        running = Running(money, self._prices.at(model, int(time.time())).dearest, prompt_tokens, most, 0)
        if running.limited:
            self.leases.take([(request, tuple((bucket, 0) for bucket in money))], self._life.loop.now_ns())
            self._running[request] = running

    def look_at(self, request: int) -> int | None:
        """After how many tokens of an answer to ask whether it `may_go_on`; None is never."""
        running = self._running.get(request)
        return running.look_at if running is not None else None

    def may_go_on(self, request: int, drawn: int) -> int | None:
        """An answer has so many tokens: after how many to ask again; None, its budget has none for it any more."""
        running = self._running.get(request)
        if running is None:
            return sys.maxsize
        if self._more(request, running, running.enough(drawn)):
            running.asked = False
            return running.look_at
        if not running.asking and not running.asked and self._link.up:
            self._ask_for(running, drawn)
        if drawn < running.output:
            return running.output
        if running.asking:
            return drawn + 1
        left = running.affordable()
        if left > drawn and self._more(request, running, left):
            return running.output
        return None

    def _more(self, request: int, running: Running, output: int) -> bool:
        """Reserve so many tokens for an answer, where its budgets have them."""
        wants = running.wants(output)
        if any(bucket.balance < amount for bucket, amount in wants if bucket.allowance.dimension == "money"):
            return False
        self.leases.extend(request, wants, self._life.loop.now_ns())
        running.output = output
        if not running.limited:
            self._running.pop(request, None)
        return True

    def _ask_for(self, running: Running, drawn: int) -> None:
        wants = running.wants(running.enough(drawn))
        short = [want for want in wants if want[0].balance < want[1] and want[0].allowance.dimension == "money"]
        running.asking = running.asked = True

        async def ask() -> None:
            try:
                await self._asked(short)
            finally:
                running.asking = False

        task = asyncio.ensure_future(ask())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    # --- the end ---------------------------------------------------------------------------------------------------

    def settle(
        self, request: int, key: str, model: str, prompt: int, cached: int, output: int, reasoning: int = 0
    ) -> int:
        """A request has ended, however it did: what it has cost, in billionths. Only the first time it settles what was
        reserved; where nothing was, another ingress had begun it."""
        self._running.pop(request, None)
        cost = self._prices.at(model, int(time.time())).cost(prompt, cached, output, reasoning)
        if self.leases.settle(request, Actual(prompt, output, cost)):
            self._estimates.ended(key, model, output)
        return cost

    def release(self, request: int) -> None:
        """It was not served."""
        self._running.pop(request, None)
        self.leases.release(request)

    def answered(self, request: int) -> None:
        """It was answered without a model: that counts as a request, costs nothing, and says nothing of lengths."""
        self._running.pop(request, None)
        self.leases.settle(request, Actual(0, 0, 0))

    def written(self, request: int) -> None:
        """Its settlement is."""
        self.leases.written(request)

    def tell(self, message: Settle) -> bool:
        """Settlements, to the accounts process; False where that is not there."""
        return self._link.settle(message)

    def headers(self, grantee: Grantee, model: str) -> list[Header]:
        """Where a caller stands now."""
        return rate_limit_headers(grantee.buckets(model), self._life.loop.now_ns())

    def close(self) -> None:
        """Give back what is not in use, and leave."""
        for cancel in self._cancels:
            cancel()
        if self._link.up:
            self._link.say(self.leases.return_all())
        self._link.close()

    # --- reserving -------------------------------------------------------------------------------------------------

    def _wants(
        self, grantee: Grantee, model: str, part: Part, call: _Call, buckets: tuple[Bucket, ...]
    ) -> tuple[Want, ...]:
        """What one choice needs. A guess of its output is never more than there can be."""
        output = self._estimates.output(grantee.key.id, model, part.most)
        wants: list[Want] = []
        for bucket in buckets:
            most = bucket.allowance.amount
            match bucket.allowance.dimension:
                case "requests":
                    amount = part.requests
                case "input_tokens":
                    amount = part.input
                case "output_tokens":
                    amount = min(output, max(1, most // call.choices))
                case "total_tokens":
                    amount = part.input + min(output, max(1, (most - call.input) // call.choices))
                case "concurrency":
                    amount = part.samples
                case "money":
                    amount = call.price.cost(part.input, 0, output)
            wants.append((bucket, amount))
        return tuple(wants)

    async def _have(self, wants: Sequence[Want]) -> None:
        """Return when everything is here."""
        leases, loop = self.leases, self._life.loop
        for _ in range(TRIES):
            short = leases.short(wants)
            if not short:
                return
            now_ns = loop.now_ns()
            for bucket, _ in short:
                if now_ns < bucket.blocked_ns:
                    raise refusals.limited(bucket)
            if not self._link.up or not await self._asked(short):
                self._unleased(short)
                return
        if short := leases.short(wants):
            raise refusals.limited(short[0][0])

    async def _asked(self, short: Sequence[Want]) -> bool:
        """Ask for what is missing; False where nobody answers."""
        self.leases.wait(short, self._life.loop.now_ns())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.shield(self._link.ask())
        except TimeoutError:
            self._down_ns = self._down_ns or self._life.loop.now_ns()
            return False
        finally:
            for bucket, amount in short:
                bucket.waiting -= amount
        return self._link.up

    def _unleased(self, short: Sequence[Want]) -> None:
        """The accounts process is not there: limits are waived for a while, budgets are not.

        Raises:
            ApiError: 503.
        """
        if any(bucket.allowance.dimension == "money" for bucket, _ in short):
            raise refusals.unavailable("The budget of this API key cannot be looked up now.")
        if self._life.loop.now_ns() - self._down_ns > self._settings.unleased_s * 1e9:
            raise refusals.unavailable("The limits of this API key cannot be looked up now.")

    # --- the accounts process --------------------------------------------------------------------------------------

    def _directory(self, part: Directory) -> None:
        if self._roster.hear(part):
            self._known.set()

    def _granted(self, message: Granted) -> None:
        self._down_ns = 0
        self.leases.granted(message.lines, self._life.loop.now_ns())

    def _recall(self, message: Recall) -> None:
        self.leases.recall(message.allowances, self._life.loop.now_ns())
        self._tick()

    def _up(self) -> None:
        self._down_ns = 0
        self._link.say(self.leases.all_lines(self._life.loop.now_ns()))
        self._on_up()

    def _down(self) -> None:
        self._down_ns = self._down_ns or self._life.loop.now_ns()

    def _tick(self) -> None:
        if self.leases.touched and self._link.up:
            self._link.say(self.leases.lines(self._life.loop.now_ns()))

    def _idle(self) -> None:
        if self._link.up:
            self.leases.idle(self._life.loop.now_ns())

    async def _wait_for_directory(self) -> None:
        try:
            async with asyncio.timeout(START_S):
                await self._known.wait()
        except TimeoutError:
            raise refusals.unavailable("API keys are not known here yet: accounts@host does not answer.") from None

    async def _find(self, id: str) -> Key | None:
        """A key by its id. One that nobody knows may have been made a moment ago, and be on its way here."""
        until_ns = self._life.loop.now_ns() + ARRIVES_NS
        while (key := self._roster.key(id)) is None and self._life.loop.now_ns() < until_ns:
            if self._held_back >= MAX_HELD_BACK:
                break
            self._held_back += 1
            try:
                await asyncio.sleep(LOOK_AGAIN_S)
            finally:
                self._held_back -= 1
        return key

    async def _hold_back(self, address: str) -> None:
        """A wrong key is answered late, the later the more of them come from an address."""
        delay_s = self._scans.failed(address, time.monotonic())
        if not delay_s:
            return
        if self._held_back >= MAX_HELD_BACK:
            raise refusals.too_many_failures()
        self._held_back += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._held_back -= 1


def _together(wants: Sequence[tuple[int, tuple[Want, ...]]]) -> list[Want]:
    """What all choices of a call need of each bucket."""
    sums: dict[Bucket, int] = {}
    for _, each in wants:
        for bucket, amount in each:
            sums[bucket] = sums.get(bucket, 0) + amount
    return list(sums.items())
