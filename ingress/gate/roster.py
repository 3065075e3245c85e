"""The directory, as the accounts process tells it, and what of it holds for a key. Pure.

What a key's requests count for is put together once for each model, and again after a change. So a request costs two
look-ups, however many keys there are.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from bus.messages.accounts import Allowance, Directory, Key, Project
from ingress.gate.leases import Bucket, Leases

REMEMBERED: Final = 20_000  # keys that are put together

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Grantee:
    """A key, and all that holds for it.

    Attributes:
        tenant: name of its project.
        partition: whom it shares cached prompts with.
        weight: of the tenant among tenants.
        models: that it may ask for; empty is all.
    """

    __slots__ = ("_allowances", "_leases", "_of_model", "key", "models", "networks", "partition", "tenant", "weight")

    def __init__(self, key: Key, project: Project, allowances: list[Allowance], leases: Leases) -> None:
        self.key, self.tenant, self.weight = key, project.name, project.weight
        self.partition = {
            "project": project.name, "organisation": f"{project.name.partition('/')[0]}/", "everyone": "",
        }[project.shares]  # fmt: skip
        self.models = frozenset(key.models)
        self.networks: tuple[Network, ...] = tuple(map(ipaddress.ip_network, key.networks))
        self._allowances, self._leases = allowances, leases
        self._of_model: dict[str, tuple[Bucket, ...]] = {}

    def buckets(self, model: str) -> tuple[Bucket, ...]:
        """What a request for a served model counts for, from the organisation to the key."""
        found = self._of_model.get(model)
        if found is None:
            found = self._of_model[model] = tuple(
                self._leases.bucket(each) for each in self._allowances if each.model in ("", model)
            )
        return found

    def may_use(self, model: str) -> bool:
        """Whether it may ask for a model."""
        return not self.models or model in self.models

    def may_come_from(self, address: str) -> bool:
        """Whether it may be used from there."""
        if not self.networks:
            return True
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self.networks)


class Roster:
    """The directory.

    Attributes:
        store, revision: of what is here; nothing while `store` is empty.
    """

    def __init__(self, leases: Leases) -> None:
        self.store, self.revision = "", 0
        self._leases = leases
        self._here = _Tables()
        self._coming: _Tables | None = None  # another whole directory, of which parts are still missing
        self._grantees: dict[str, Grantee] = {}

    def hear(self, part: Directory) -> bool:
        """A part of it; whether the whole is here now."""
        if part.whole:
            self._coming = _Tables()
        tables = self._coming or self._here
        tables.put(part)
        if self._coming is not None and not part.more:
            for number in self._here.allowances.keys() - self._coming.allowances.keys():
                self._leases.drop(number)
            self._here, self._coming = self._coming, None
        if self._coming is not None:
            return False
        for number in part.gone:
            self._leases.drop(number)
        self._grantees.clear()
        if not part.more:
            self.store, self.revision = part.store, part.revision
        return bool(self.store)

    def key(self, id: str) -> Key | None:
        """A key of that id, good or not."""
        return self._here.keys.get(id)

    def grantee(self, key: Key) -> Grantee | None:
        """All that holds for a key; None where its project is not known."""
        found = self._grantees.get(key.id)
        if found is None:
            if (project := self._here.projects.get(key.project)) is None:
                return None
            if len(self._grantees) >= REMEMBERED:
                self._grantees.clear()
            allowances = self._here.of_scopes(project.name.partition("/")[0], project.name, key.id)
            found = self._grantees[key.id] = Grantee(key, project, allowances, self._leases)
        return found


class _Tables:
    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.keys: dict[str, Key] = {}
        self.allowances: dict[int, Allowance] = {}
        self._by_scope: dict[str, dict[int, Allowance]] = {}

    def put(self, part: Directory) -> None:
        self.projects.update((project.name, project) for project in part.projects)
        self.keys.update((key.id, key) for key in part.keys)
        for each in part.allowances:
            self.allowances[each.number] = each
            self._by_scope.setdefault(each.scope, {})[each.number] = each
        for number in part.gone:
            if (gone := self.allowances.pop(number, None)) is not None:
                self._by_scope[gone.scope].pop(number, None)

    def of_scopes(self, *scopes: str) -> list[Allowance]:
        return [each for scope in scopes for each in self._by_scope.get(scope, {}).values()]
