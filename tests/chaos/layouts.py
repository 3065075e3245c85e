"""The stacks that it is done to. All serve the same model; they differ in who can take over from whom."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from lora_files import made
from stack import SMOLLM2

from bus.names import SUPERVISOR
from chaos.catalogue import ADAPTER

# The same by the kernels, on the file's own bits: what is in a batch changes no bit there.
_KERNELS: Final = SMOLLM2.replace('dtype = "float32"\n', "deterministic = true\n")
# A worker that stands still must be found within a round; ten times its predicted time a step may always take.
_SOON: Final = "hang_s = 5.0\n"


class Layout(msgspec.Struct, frozen=True):
    """`[[model]]` and what is around it.

    Attributes:
        numerics: layouts that have the same give the same answers.
        exact: what is in a batch with a request changes no bit of it. Elsewhere an answer is excused that differs in
            the same way when nobody dies.
        share: of a run's kills.
    """

    name: str
    model: str
    ingresses: int = 2
    arena: str = "768MiB"
    share: float = 1.0
    numerics: str = "float32"
    exact: bool = False


LAYOUTS: Final = (
    Layout("one", SMOLLM2 + _SOON, share=2.0),  # the only worker dies: everybody waits for it
    Layout("standby", SMOLLM2 + _SOON + "standby = 1\n"),  # a process that waits takes over
    Layout("kernels", _KERNELS + _SOON + "standby = 1\n", numerics="kernels", exact=True),
    Layout("pools", _KERNELS + _SOON + "[model.pools]\n", numerics="kernels", exact=True),  # prefill apart from decode
    Layout("two", SMOLLM2 + _SOON + "replicas = 2\n"),  # the other one takes over
    Layout("ranks", SMOLLM2 + _SOON + "tensor_parallel = 2\n", numerics="ranks"),  # a rank dies: the group starts again
    Layout("tight", SMOLLM2 + _SOON, arena="192MiB", share=0.5),  # pages run out: eviction and preemption
)


def with_adapter(layout: Layout, directory: Path) -> str:
    """Its `[[model]]`, with the adapter that the catalogue asks for, which is written into a directory."""
    return f'{layout.model}[[model.adapter]]\nname = "{ADAPTER}"\nsource = "path:{made(directory / ADAPTER, seed=1)}"\n'


def victims(status: Mapping[str, Any], spared: frozenset[str]) -> dict[str, list[str]]:
    """Processes by role, as `Stack.status` has them, without the roles that are spared."""
    names: dict[str, list[str]] = {}
    for process in status["processes"]:
        names.setdefault(process["role"], []).append(process["name"])
    names["supervisor"] = [SUPERVISOR]
    return {role: sorted(found) for role, found in names.items() if role not in spared}
