"""Adapters (LoRA) of a served model, in three conversations: `requests` (load one, which are there), `steps` (which a
worker shall have), `control` (the operator's side of the first).

The scheduler of the base knows all adapters of it. An adapter is known by its name to clients, by its digest to
requests and pages, and by a number, which is a scheduler incarnation's own, to workers.
"""

from __future__ import annotations

import msgspec


class AdapterFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An adapter that clients may name.

    Attributes:
        digest: of its content, 16 bytes; empty while no worker has read it.
        trouble: why it cannot be used; empty where it can, or that is not known yet.
        created: when it was loaded, Unix seconds.
    """

    name: str
    digest: bytes = b""
    trouble: str = ""
    created: int = 0


class LoadAdapter(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=95):
    """ingress -> scheduler: serve this too. Answered by `AdapterAnswer` when a worker has read it. Asked again with the
    same path, it is there already.

    Attributes:
        path: of a directory, which must be in the one that the configuration names.
    """

    rid: int
    name: str
    path: str


class UnloadAdapter(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=96):
    """ingress -> scheduler: take no more requests for it. Those that are under way are completed."""

    rid: int
    name: str


class AdapterAnswer(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=97):
    """scheduler -> ingress.

    Attributes:
        problem: why not; empty where it is done.
        missing: there is no adapter of that name.
    """

    rid: int
    problem: str = ""
    missing: bool = False


class AdapterSource(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where an adapter is read from.

    Attributes:
        source: as a model's: `path:/DIR` or `hf:ORG/REPO`.
        digest: that it must have; empty is any.
    """

    number: int
    name: str
    source: str
    digest: bytes = b""


class KeepAdapters(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=98):
    """scheduler -> worker: have these and no others, read in this order what is not there. Each is answered by
    `AdapterState`."""

    adapters: tuple[AdapterSource, ...]


class AdapterState(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=99):
    """worker -> scheduler: an adapter can be used, or (`problem`) cannot.

    Attributes:
        size: bytes that this rank's share takes.
        took_ns: that reading it took.
    """

    number: int
    digest: bytes = b""
    size: int = 0
    took_ns: int = 0
    problem: str = ""


class AddAdapter(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=95):
    """operator -> scheduler: as `LoadAdapter`, from anywhere. It is read after the answer; `GetAdapters` tells."""

    rid: int
    name: str
    path: str
    reason: str = ""


class RemoveAdapter(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=96):
    """operator -> scheduler: as `UnloadAdapter`."""

    rid: int
    name: str
    reason: str = ""


class GetAdapters(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=97):
    """operator -> scheduler: which are there?"""

    rid: int


class AdapterNow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One adapter.

    Attributes:
        replicas: numbers of those that have it in memory.
        requests: waiting and running.
        listed: clients may name it; else its last requests are being completed.
    """

    name: str
    source: str
    digest: bytes
    trouble: str
    replicas: tuple[int, ...]
    requests: int
    listed: bool = True


class Adapters(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=98):
    """Answer to `GetAdapters`.

    Attributes:
        room: how many a replica has in memory at once.
        failed: why the last ones that were loaded at run time could not be, by name.
    """

    rid: int
    adapters: tuple[AdapterNow, ...]
    room: int
    failed: tuple[tuple[str, str], ...] = ()
