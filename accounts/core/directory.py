"""Who there is: projects, keys, and the allowances of each; what changed since when. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from accounts.core import periods
from bus.messages.accounts import Allowance, Directory, Key, Project
from bus.orders import allowance_in_words
from bus.prices import NANO

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
KEY_ID: Final = re.compile(r"k[0-9a-f]{11}")
MAX_KEYS: Final = 100_000
MAX_PROJECTS: Final = 10_000
MAX_ALLOWANCES: Final = 200_000
AT_ONCE: Final = 5_000  # records of one part of the directory
LEAST_WEIGHT: Final = 0.01
MOST_WEIGHT: Final = 100.0
LONGEST_TEXT: Final = 100
MAX_LIST: Final = 100  # models or networks of a key
LONGEST_WINDOW_S: Final = 31 * 86400
LARGEST: Final = 1 << 53
LARGEST_MONEY: Final = NANO << 30

Record = Project | Key | Allowance


class Unfit(ValueError):
    """Not possible; the message says what to do."""


class Register:
    """Everybody, and the number of the last change.

    Attributes:
        store: a name of this directory; another one has another.
    """

    def __init__(self, store: str) -> None:
        self.store, self.revision = store, 0
        self.projects: dict[str, Project] = {}
        self.keys: dict[str, Key] = {}
        self.allowances: dict[int, Allowance] = {}
        self._changed: dict[str | int, int] = {}  # revision by name or number
        self._gone: dict[int, int] = {}
        self._by_scope: dict[str, set[int]] = {}
        self._next = 1

    def put(self, record: Record) -> int:
        """It is there, or is now as it says. Returns the revision."""
        match record:
            case Project():
                self.projects[record.name] = record
            case Key():
                self.keys[record.id] = record
            case Allowance():
                self.allowances[record.number] = record
                self._by_scope.setdefault(record.scope, set()).add(record.number)
                self._next = max(self._next, record.number + 1)
        self.revision += 1
        self._changed[_name(record)] = self.revision
        return self.revision

    def drop(self, number: int) -> int:
        """An allowance is no more."""
        record = self.allowances.pop(number)
        self._by_scope[record.scope].discard(number)
        self.revision += 1
        self._changed.pop(number, None)
        self._gone[number] = self.revision
        return self.revision

    def reserve_number(self, number: int) -> None:
        """Numbers up to this one were given before."""
        self._next = max(self._next, number + 1)

    def since(self, store: str, revision: int) -> Iterator[Directory]:
        """What somebody lacks who has the directory as of `revision`, in parts."""
        whole = store != self.store or revision > self.revision
        known = -1 if whole else revision
        records: list[Record] = [
            record
            for table in (self.projects, self.keys, self.allowances)
            for record in table.values()
            if self._changed[_name(record)] > known
        ]
        gone = () if whole else tuple(number for number, at in self._gone.items() if at > known)
        for start in range(0, max(1, len(records)), AT_ONCE):
            part = records[start : start + AT_ONCE]
            yield Directory(
                self.store, self.revision, whole and start == 0, start + AT_ONCE < len(records),
                tuple(each for each in part if isinstance(each, Project)),
                tuple(each for each in part if isinstance(each, Key)),
                tuple(each for each in part if isinstance(each, Allowance)),
                gone if start == 0 else (),
            )  # fmt: skip

    def scopes_of(self, key: str) -> tuple[str, ...]:
        """Organisation, project and key that a key's requests count for."""
        project = self.keys[key].project
        return (project.partition("/")[0], project, key)

    def allowances_of(self, scope: str) -> list[Allowance]:
        """In the order in which they were made."""
        return [self.allowances[number] for number in sorted(self._by_scope.get(scope, ()))]

    def budgets_of(self, key: str) -> tuple[int, ...]:
        """Numbers of the money that a key spends."""
        if key not in self.keys:
            return ()
        return tuple(
            each.number for scope in self.scopes_of(key) for each in self.allowances_of(scope) if _is_money(each)
        )

    # --- checks ----------------------------------------------------------------------------------------------------

    def check_project(self, project: Project) -> None:
        """Whether there may be one.

        Raises:
            Unfit: see there.
        """
        organisation, slash, name = project.name.partition("/")
        if not slash or not NAME.fullmatch(organisation) or not NAME.fullmatch(name) or KEY_ID.fullmatch(organisation):
            raise Unfit(
                f"{project.name!r} is no name of a project: write ORGANISATION/PROJECT, each of up to 32 lower-case "
                "letters, digits, dots, dashes and underscores"
            )
        if not LEAST_WEIGHT <= project.weight <= MOST_WEIGHT:
            raise Unfit(f"a weight is from {LEAST_WEIGHT} to {MOST_WEIGHT}; 1 is that of everybody else")
        if project.name not in self.projects and len(self.projects) >= MAX_PROJECTS:
            raise Unfit(f"there are {MAX_PROJECTS} projects already")

    def check_key(self, key: Key) -> None:
        """Whether there may be one.

        Raises:
            Unfit: see there.
        """
        if not KEY_ID.fullmatch(key.id) or key.id in self.keys:
            raise Unfit(f"the id {key.id!r} is taken, or none; ask again")
        if len(key.digest) != 32:
            raise Unfit("a SHA-256 of 32 bytes is expected")
        if key.project not in self.projects:
            raise Unfit(f"there is no project {key.project!r}: headrace projects create {key.project}")
        if len(self.keys) >= MAX_KEYS:
            raise Unfit(f"there are {MAX_KEYS} keys already, those that were revoked included")
        if len(key.name) > LONGEST_TEXT or len(key.models) > MAX_LIST or len(key.networks) > MAX_LIST:
            raise Unfit(
                f"a name has at most {LONGEST_TEXT} characters, a key {MAX_LIST} models and {MAX_LIST} networks"
            )
        for network in key.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise Unfit(f"{network!r} is no network: {error}; write for example 10.0.0.0/8") from None

    def key(self, key: str) -> Key:
        """A key that is good.

        Raises:
            Unfit: there is none, or it is revoked.
        """
        if (found := self.keys.get(key)) is None:
            raise Unfit(f"there is no key {key!r}: headrace keys list shows all")
        if found.revoked_s:
            raise Unfit(f"the key {key} is revoked, for good; create another one")
        return found

    def placed(self, wanted: Allowance) -> Allowance:
        """An allowance that was asked for, with its number: that of the one whose place it takes, or a new one.

        Raises:
            Unfit: there cannot be such an allowance, or there is none to remove.
        """
        _check_allowance(wanted)
        kind, scope = wanted.kind, wanted.scope
        known = {
            "key": scope in self.keys, "project": scope in self.projects,
            "organisation": any(name.startswith(f"{scope}/") for name in self.projects),
        }  # fmt: skip
        if not known[kind]:
            raise Unfit(f"there is no {kind} {scope!r}")
        for each in self.allowances_of(scope):
            if replace(each, number=0, amount=0) == replace(wanted, number=0, amount=0):
                return replace(wanted, number=each.number)
        if wanted.amount < 0:
            return self._only_one(wanted)
        if len(self.allowances) >= MAX_ALLOWANCES:
            raise Unfit(f"there are {MAX_ALLOWANCES} limits and budgets already")
        self._next += 1
        return replace(wanted, number=self._next - 1)

    def _only_one(self, unwanted: Allowance) -> Allowance:
        """The limit or budget to remove, whatever its window is.

        Raises:
            Unfit: there is none, or more than one.
        """
        same = (unwanted.dimension, unwanted.model)
        found = [each for each in self.allowances_of(unwanted.scope) if (each.dimension, each.model) == same]
        if len(found) == 1:
            return replace(found[0], amount=unwanted.amount)
        if not found:
            raise Unfit(f"{unwanted.scope} has no such limit or budget")
        known = "; ".join(map(allowance_in_words, found))
        raise Unfit(f"{unwanted.scope} has {len(found)} of these ({known}): say which, with --window or --per")


def _check_allowance(wanted: Allowance) -> None:
    if wanted.amount > (LARGEST_MONEY if _is_money(wanted) else LARGEST):
        raise Unfit(f"{wanted.amount} is too much")
    if _is_money(wanted):
        try:
            periods.check(wanted.period)
        except periods.BadPeriod as bad:
            raise Unfit(str(bad)) from None
        fits = wanted.window_s == 0
    elif wanted.dimension == "concurrency":
        fits = wanted.window_s == 0 and not wanted.period
    else:
        fits = 1 <= wanted.window_s <= LONGEST_WINDOW_S and not wanted.period
    if not fits or wanted.amount == 0:
        raise Unfit(
            f"{wanted.dimension}: an amount of at least 1, and 1 to {LONGEST_WINDOW_S} seconds for what comes again; "
            "to let nothing through, revoke the key"
        )
    if len(wanted.model) > LONGEST_TEXT:
        raise Unfit(f"{wanted.model!r} is no model")


def _is_money(allowance: Allowance) -> bool:
    return allowance.dimension == "money"


def _name(record: Record) -> str | int:
    match record:
        case Project():
            return record.name
        case Key():
            return record.id
        case Allowance():
            return record.number
