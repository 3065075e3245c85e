"""The sockets of the accounts process: the directory and leases for ingresses, orders of operators. Decides nothing.

Everything that an ingress is told is written first. While that cannot be done, nobody is told anything, and ingresses
go on with what they hold.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from accounts.core import periods
from accounts.core.book import Account, Book, Holder
from accounts.core.directory import Register, Unfit
from accounts.database import Database, Unusable
from accounts.onlooker import Onlooker
from accounts.orders import Change, plan
from bus.messages.accounts import Allowance, Ask, Directory, Follow, Recall, Settle, Settled, Settlement, ToAccounts
from bus.messages.control import AccountsHeld, AllowanceNow, Answer, GetAccounts, Ok, Rejected, ToProcess
from bus.messages.vitals import AccountsView
from bus.names import LEASES_DOOR, state_directory
from bus.process import EXIT_CONFIG, EXIT_MISSING, Description, Life
from bus.server import Peer, Server

log = logging.getLogger(__name__)

TURN_S: Final = 0.02
TIDY_S: Final = 60.0
LOST_NS: Final = 60_000_000_000  # who is not heard of for so long is dead, or as good as that
_TROUBLE: Final = "accounts"


class AccountsService:
    """Register and book, and the doors to them."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._register, self._book = Register(f"{life.name} {life.epoch}"), Book()
        self._onlooker = Onlooker(self._register, self._book)
        self._database: Database | None = None
        self._peers: dict[Peer, bool] = {}  # whether it follows the directory
        self._lost: dict[Holder, int] = {}  # since when they are not here
        self._asked = self._settled = 0
        self._cancels: list[Callable[[], None]] = []

    def start(self) -> None:
        """Read the file, open the door."""
        life, now_ns = self._life, self._life.loop.now_ns()
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            self._database = Database(state_directory(), boot)
            self._database.load(self._register, self._book, now_ns)
        except Unusable as error:
            life.fail(str(error), EXIT_CONFIG)
            return
        except (sqlite3.Error, OSError) as error:
            life.fail(f"{state_directory()}: {error}", EXIT_MISSING)
            return
        self._lost = dict.fromkeys(self._book.holders(), now_ns)
        self._server: Server[Any] = Server(
            life, LEASES_DOOR, "accounts", ToAccounts, roles=("ingress",), on_message=self._hear, on_join=self._joined,
            on_leave=self._left,
        )  # fmt: skip
        self._cancels = [life.loop.every(TURN_S, self._turn), life.loop.every(TIDY_S, self._tidy)]
        self._onlooker.changed(self._book.accounts)
        life.telemetry.slow_views.append(self._view)
        life.ready()

    def describe(self) -> Description:
        """For `headrace status`."""
        register = self._register
        good = sum(not key.revoked_s for key in register.keys.values())
        return Description(
            detail=f"{good} keys, {len(register.allowances)} limits and budgets; {len(self._peers)} ingresses",
            counters=(("asked", self._asked), ("settled", self._settled)),
        )

    def drain(self) -> None:
        """There is no work to finish."""

    def undrain(self) -> None:
        """Goes on as before."""

    def drained(self) -> bool:
        """Always: what is asked is answered at once."""
        return True

    def hand_over(self) -> None:
        """Nothing to do, see `drained`."""

    def stop(self) -> None:
        """Close the door and the file."""
        for cancel in self._cancels:
            cancel()
        if self._database is not None:
            if self._cancels:
                self._server.close()
            self._database.close()

    # --- operators -------------------------------------------------------------------------------------------------

    def control(self, message: ToProcess) -> Answer | None:
        """Keys, projects, limits and budgets."""
        if isinstance(message, GetAccounts):
            return self._held(message)
        if not isinstance(message, Change):
            return None
        database, before = self._database, self._register.revision
        if database is None:
            return Rejected(message.rid, "the accounts are being read; try again in a moment")
        try:
            todo = plan(message, self._register, int(time.time()))
            now_ns = self._life.loop.now_ns()
            database.change(todo.put, todo.drop, ())
        except Unfit as unfit:
            return Rejected(message.rid, str(unfit))
        except sqlite3.Error as error:
            return Rejected(message.rid, f"nothing was changed: {database.path}: {error}")
        for record in todo.put:
            self._register.put(record)
            if isinstance(record, Allowance):
                self._book.put(record, now_ns)
        for number in todo.drop:
            self._register.drop(number)
            self._book.drop(number)
        for peer, follows in self._peers.items():
            if follows:
                self._tell(peer, self._register.store, before)
        return Ok(message.rid, todo.detail, todo.before, todo.after)

    def _held(self, asked: GetAccounts) -> AccountsHeld | Rejected:
        register, scope = self._register, asked.scope
        projects = [p for p in register.projects.values() if _within(scope, p.name)]
        keys = [key for key in register.keys.values() if scope == key.id or _within(scope, key.project)]
        if scope and not projects and not keys:
            return Rejected(asked.rid, f"there is no organisation, project or key {scope!r}: headrace projects list")
        keys.sort(key=lambda key: (-key.created_s, key.id))
        shown = keys[: asked.most]
        scopes = {*(key.id for key in shown), *(p.name for p in projects)}
        if not scope or "/" not in scope:
            scopes |= {p.name.partition("/")[0] for p in projects if not scope or p.name.startswith(f"{scope}/")}
        now_ns, now_s = self._life.loop.now_ns(), int(time.time())
        accounts = [
            _now(self._book.accounts[each.number], now_ns, now_s)
            for name in sorted(scopes)
            for each in register.allowances_of(name)
        ]
        return AccountsHeld(
            asked.rid, tuple(projects), tuple(shown), tuple(accounts), len(keys) - len(shown),
            self._life.config.cost.currency,
        )  # fmt: skip

    # --- ingresses -------------------------------------------------------------------------------------------------

    def _joined(self, peer: Peer) -> None:
        self._peers[peer] = False
        self._lost.pop(Holder(peer.name, peer.epoch), None)
        for holder in self._book.holders():
            if holder.name == peer.name and holder.epoch < peer.epoch:
                self._dead(holder)
        self._life.busy = False

    def _left(self, peer: Peer, reason: str) -> None:
        self._peers.pop(peer, None)
        holder = Holder(peer.name, peer.epoch)
        if reason in ("died", "replaced", "closed"):
            self._dead(holder)
        else:
            self._lost[holder] = self._life.loop.now_ns()

    def _dead(self, holder: Holder) -> None:
        self._lost.pop(holder, None)
        self._book.forget(holder, self._life.loop.now_ns())

    def _hear(self, peer: Peer, message: Follow | Ask | Settle) -> None:
        self._life.progressed()
        match message:
            case Follow():
                self._peers[peer] = True
                self._tell(peer, message.store, message.revision)
            case Ask():
                self._asked += 1
                holder = Holder(peer.name, peer.epoch)
                answer = self._book.ask(holder, message, self._life.loop.now_ns(), int(time.time()))
                if self._saved() and answer is not None:
                    self._server.send(peer, answer)
                self._turn()
            case Settle():
                self._settle(peer, message)

    def _tell(self, peer: Peer, store: str, revision: int) -> None:
        part: Directory
        for part in self._register.since(store, revision):
            self._server.send(peer, part)

    def _settle(self, peer: Peer, message: Settle) -> None:
        database = self._database
        assert database is not None
        new: list[Settlement] = []
        try:
            new = database.settle(message.records)
            self._charge(new)
            database.charged(self._dirty())
        except sqlite3.Error as error:
            database.give_up()
            self._charge(replace(record, cost=-record.cost) for record in new)
            self._trouble(error)
            return
        self._written()
        self._settled += len(new)
        self._server.send(peer, Settled(message.rid))

    def _charge(self, records: Iterable[Settlement]) -> None:
        records = tuple(records)
        self._book.spend(records, {record.key: self._register.budgets_of(record.key) for record in records})

    def _turn(self) -> None:
        """Answers that were waited for, and recalls."""
        book = self._book
        answers = book.turn(self._life.loop.now_ns(), int(time.time()))
        recalls = book.recalls()
        if not self._saved():
            return
        peers = {Holder(peer.name, peer.epoch): peer for peer in self._peers} if answers or recalls else {}
        for holder, answer in answers:
            if (peer := peers.get(holder)) is not None:
                self._server.send(peer, answer)
        for holder, numbers in recalls.items():
            if (peer := peers.get(holder)) is not None:
                self._server.send(peer, Recall(tuple(numbers)))

    def _tidy(self) -> None:
        now_ns = self._life.loop.now_ns()
        for holder, since_ns in tuple(self._lost.items()):
            if now_ns - since_ns > LOST_NS:
                self._dead(holder)
        self._book.tidy(now_ns, int(time.time()))
        if self._saved() and self._database is not None:
            try:
                self._database.prune(int(time.time()))
            except sqlite3.Error as error:
                self._trouble(error)

    # --- the file --------------------------------------------------------------------------------------------------

    def _dirty(self) -> list[Account]:
        return [self._book.accounts[number] for number in self._book.dirty if number in self._book.accounts]

    def _saved(self) -> bool:
        """Whether everything that was decided is written now."""
        if not self._book.dirty or self._database is None:
            return True
        try:
            self._database.save(self._dirty())
        except sqlite3.Error as error:
            self._trouble(error)
            return False
        self._written()
        self._life.troubles.over(_TROUBLE)
        return True

    def _written(self) -> None:
        self._onlooker.changed(self._book.dirty)
        self._book.dirty.clear()

    def _view(self) -> AccountsView:
        life = self._life
        return self._onlooker.view(life.name, life.config.cost.currency, life.loop.now_ns(), int(time.time()))

    def _trouble(self, error: sqlite3.Error) -> None:
        assert self._database is not None
        problem = f"{self._database.path} cannot be written, so no leases are given: {error}"
        if self._life.troubles.say(_TROUBLE, problem, self._life.loop.now_ns()):
            log.error("%s", problem)


def _within(scope: str, project: str) -> bool:
    """Whether a project is, or belongs to, what was asked for."""
    return not scope or project == scope or project.startswith(f"{scope}/")


def _now(account: Account, now_ns: int, now_s: int) -> AllowanceNow:
    period = account.allowance.period
    return AllowanceNow(
        account.allowance, account.spent_now(now_s) if period else 0, account.held, account.free(now_ns, now_s),
        periods.next_s(period, now_s) if period else 0,
    )  # fmt: skip
