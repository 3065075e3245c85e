"""Adapters as models of their own: which names there are, and asking schedulers for more or fewer of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from bus.messages.adapters import AdapterAnswer, AdapterFacts, LoadAdapter, UnloadAdapter
from ingress.errors import ApiError, invalid_request, model_not_found, not_ready
from ingress.models import ServedModel

PATIENCE_S: Final = 120.0  # for an adapter to be read, behind others perhaps


class AdapterNames:
    """The adapters of all models, by name.

    Args:
        models: that they are of.
        configured: names of those that are there from the beginning, by model. What they are, its scheduler says.
    """

    def __init__(self, models: Mapping[str, ServedModel], configured: Mapping[str, Sequence[str]]) -> None:
        self._configured = {name for names in configured.values() for name in names}
        self._models: dict[str, ServedModel] = {}
        self._known: dict[str, asyncio.Event] = {}
        for base, names in configured.items():
            for name in names:
                self._put(models[base].adapted(name, b""))

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def get(self, name: str) -> ServedModel | None:
        """The adapter of that name."""
        return self._models.get(name)

    def known(self, name: str) -> asyncio.Event | None:
        """Set when it is known what an adapter is, or that it cannot be used; None where the name is none's."""
        return self._known.get(name)

    def told(self, base: ServedModel, adapters: Sequence[AdapterFacts]) -> None:
        """A scheduler says which its model has."""
        named = {each.name for each in adapters}
        for name in [name for name, model in self._models.items() if model.base == base.name and name not in named]:
            if name in self._configured:
                self._put(base.adapted(name, b""))  # it is to be there, and this scheduler does not know it yet
            else:
                self._known.pop(name).set()
                del self._models[name]
        for each in adapters:
            before = self._models.get(each.name)
            if before is None or (before.adapter, before.trouble) != (each.digest, each.trouble):
                self._put(base.adapted(each.name, each.digest, each.trouble, each.created))

    def _put(self, model: ServedModel) -> None:
        self._models[model.name] = model
        event = self._known.setdefault(model.name, asyncio.Event())
        (event.set if model.adapter or model.trouble else event.clear)()


class Loads:
    """Orders to schedulers that are not answered yet.

    Args:
        send: to the scheduler of a model; False where it is away.
    """

    def __init__(self, send: Callable[[str, LoadAdapter | UnloadAdapter], bool]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[str, asyncio.Future[AdapterAnswer]]] = {}

    async def load(self, base: str, name: str, path: str) -> None:
        """Have a model's scheduler load an adapter.

        Raises:
            ApiError: 400, it cannot be served, and why; 503, nobody answers.
        """
        answer = await self._ask(base, LoadAdapter(next(self._numbers), name, path))
        if answer.problem:
            raise invalid_request(answer.problem, param="lora_path")

    async def unload(self, base: str, name: str) -> None:
        """Have it take no more requests for one.

        Raises:
            ApiError: 404, there is none of that name; 400, it is to stay; 503, nobody answers.
        """
        answer = await self._ask(base, UnloadAdapter(next(self._numbers), name))
        if answer.missing:
            raise model_not_found(name, ())
        if answer.problem:
            raise invalid_request(answer.problem, param="lora_name")

    def answered(self, answer: AdapterAnswer) -> None:
        """A scheduler has answered."""
        if (asked := self._asked.pop(answer.rid, None)) is not None and not asked[1].done():
            asked[1].set_result(answer)

    def lost(self, base: str) -> None:
        """A scheduler is away: whether it has done what it was asked, nobody knows. Asked again, it says so."""
        for rid in [rid for rid, asked in self._asked.items() if asked[0] == base]:
            _, future = self._asked.pop(rid)
            if not future.done():
                future.set_exception(_away(base))

    async def _ask(self, base: str, order: LoadAdapter | UnloadAdapter) -> AdapterAnswer:
        future: asyncio.Future[AdapterAnswer] = asyncio.get_running_loop().create_future()
        self._asked[order.rid] = base, future
        try:
            if not self._send(base, order):
                raise _away(base)
            return await asyncio.wait_for(future, PATIENCE_S)
        except TimeoutError:
            raise not_ready(f"The adapter {order.name!r} was not read within {PATIENCE_S:.0f} s.", 5.0) from None
        finally:
            self._asked.pop(order.rid, None)


def _away(base: str) -> ApiError:
    return not_ready(f"The scheduler of {base!r} is away: ask again.", 2.0)
