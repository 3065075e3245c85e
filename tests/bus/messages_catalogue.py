"""Every message type of every channel, a sample of each, and hypothesis strategies for them. Derived, not listed."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from bus.messages import accounts, batches, clients, control, observe, pages, requests, steps, telemetry
from bus.wire import Channel

UNIONS: dict[Channel, tuple[object, ...]] = {
    "clients": (clients.ToIngressFromClient, clients.ToClient),
    "requests": (requests.ToScheduler, requests.ToIngress),
    "steps": (steps.ToWorker, steps.ToSchedulerFromWorker),
    "pages": (pages.ToKv, pages.FromKv),
    "telemetry": (telemetry.ToMetrics,),
    "observe": (observe.ToObserver, observe.FromObserver, observe.Update),
    "control": (control.ToProcess, control.FromProcess),
    "accounts": (accounts.ToAccounts, accounts.FromAccounts),
    "batches": (batches.ToBatch, batches.FromBatch),
}


def message_types() -> list[tuple[Channel, type[msgspec.Struct]]]:
    """(channel, struct) pairs, each once, in a stable order."""
    seen: dict[tuple[Channel, type[msgspec.Struct]], None] = {}
    for channel, unions in UNIONS.items():
        for union in unions:
            for member in typing.get_args(union) or (union,):
                seen[channel, member] = None
    return list(seen)


def sample(kind: type[msgspec.Struct]) -> Any:
    """A message with a recognisable value in every field."""
    return _sample(inspect.type_info(kind))


def _sample(info: inspect.Type) -> Any:
    match info:
        case inspect.StructType():
            return info.cls(**{field.name: _sample(field.type) for field in info.fields})
        case inspect.IntType():
            return 7
        case inspect.FloatType():
            return 1.5
        case inspect.StrType():
            return "x"
        case inspect.BytesType():
            return b"\x01\x02"
        case inspect.BoolType():
            return True
        case inspect.LiteralType():
            return info.values[0]
        case inspect.VarTupleType():
            return (_sample(info.item_type),)
        case inspect.TupleType():
            return tuple(_sample(item) for item in info.item_types)
        case inspect.UnionType():
            return _sample(info.types[0])
    raise AssertionError(f"no sample for {info}")


def strategy(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any message of that type."""
    return _strategy(inspect.type_info(kind))


def _strategy(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.StructType():
            fields = {field.name: _strategy(field.type) for field in info.fields}
            return st.builds(info.cls, **fields)
        case inspect.IntType():
            return st.integers(min_value=-(2**63), max_value=2**64 - 1)
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.StrType():
            return st.text(max_size=20)
        case inspect.BytesType():
            return st.binary(max_size=64)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.LiteralType():
            return st.sampled_from(info.values)
        case inspect.VarTupleType():
            return st.lists(_strategy(info.item_type), max_size=3).map(tuple)
        case inspect.TupleType():
            return st.tuples(*(_strategy(item) for item in info.item_types))
        case inspect.UnionType():
            return st.one_of(*(_strategy(item) for item in info.types))
    raise AssertionError(f"no strategy for {info}")
