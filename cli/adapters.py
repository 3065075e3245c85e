"""`headrace adapters`: which adapters models have, and more or fewer of them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import cyclopts

from cli.commands.base import Switch

if TYPE_CHECKING:
    from bus.messages.adapters import AdapterNow, AddAdapter, GetAdapters, RemoveAdapter

adapters = cyclopts.App(name="adapters", help="Adapters (LoRA) that are served beside a model, by names of their own.")
PATIENCE_S = 120.0


@adapters.command(name="list", sort_key=1)
def list_adapters(model: str, *, json: Switch = False) -> int:
    """The adapters of a model, and which replicas have them in memory.

    Args:
        model: The base.
        json: For programs.
    """
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from bus.messages.adapters import Adapters, GetAdapters

    answer = _ask(model, GetAdapters(0))
    if not isinstance(answer, Adapters):
        return _refused(answer)
    if json:
        print(msgspec.json.encode([_plain(each) for each in answer.adapters]).decode())
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("adapter", "digest", "in memory of", "requests", "source", ""):
        table.add_column(title, justify="right" if title == "requests" else "left", overflow="fold")
    for each in answer.adapters:
        state = each.trouble or ("" if each.digest else "being read") or ("" if each.listed else "unloaded")
        where = ", ".join(f"replica {number}" for number in each.replicas)
        table.add_row(each.name, each.digest.hex()[:12], where, str(each.requests), each.source, state)
    Console(highlight=False).print(table)
    print(f"a replica has up to {answer.room} in memory at once ([model.lora] resident)")
    return 0


@adapters.command(sort_key=2)
def add(model: str, name: str, path: str, *, reason: str = "") -> int:
    """Serve an adapter beside a model, from now on.

    It is there until it is removed or the machine restarts; a [[model.adapter]] in the configuration is there always.

    Args:
        model: The base.
        name: That clients ask for it by.
        path: Directory with adapter_config.json and adapter_model.safetensors.
        reason: For the audit log.
    """
    from bus.messages.adapters import Adapters, AddAdapter, GetAdapters
    from bus.messages.control import Rejected

    answer = _ask(model, AddAdapter(0, name, path, reason))
    if answer is None or isinstance(answer, Rejected):
        return _refused(answer)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        answer = _ask(model, GetAdapters(0))
        if not isinstance(answer, Adapters):
            return _refused(answer)
        one = next((each for each in answer.adapters if each.listed and each.name == name), None)
        if one is None:
            print(
                f"{name} cannot be served: {dict(answer.failed).get(name, 'it was removed meanwhile')}", file=sys.stderr
            )
            return 1
        if one.digest:
            print(f"{name} is served: {one.digest.hex()}")
            return 0
        time.sleep(0.1)
    print(f"{name} was not read within {PATIENCE_S:.0f} s; `headrace adapters list {model}` tells", file=sys.stderr)
    return 1


@adapters.command(sort_key=3)
def remove(model: str, name: str, *, reason: str = "") -> int:
    """Serve an adapter no longer. What is under way with it is completed.

    Args:
        model: The base.
        name: The adapter's.
        reason: For the audit log.
    """
    from bus.messages.adapters import RemoveAdapter
    from bus.messages.control import Rejected

    answer = _ask(model, RemoveAdapter(0, name, reason))
    return _refused(answer) if answer is None or isinstance(answer, Rejected) else 0


def _ask(model: str, question: AddAdapter | RemoveAdapter | GetAdapters) -> object:
    from bus.names import scheduler_name
    from cli.control import Caller, Unreachable

    try:
        with Caller() as caller:
            return caller.ask(scheduler_name(model), question)
    except Unreachable as error:
        print(error, file=sys.stderr)
        return None


def _refused(answer: object) -> int:
    from bus.messages.control import Rejected

    if isinstance(answer, Rejected):
        print(answer.reason, file=sys.stderr)
    return 1


def _plain(adapter: AdapterNow) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.structs.asdict(adapter)
    return plain | {"digest": adapter.digest.hex()}
