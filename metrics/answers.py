"""Answers to the questions of the detail screens: what the collector knows, and what the machine says.

Everything is put together when somebody asks. Nothing here is on the way of a request.
"""

from __future__ import annotations

from collections.abc import Sequence

from bus.config import ModelConfig
from bus.messages.details import (
    AllowancesReply,
    BusReply,
    Details,
    GetAllowances,
    GetBus,
    GetHost,
    GetModels,
    GetPages,
    GetSteps,
    HostReply,
    ModelsReply,
    Question,
    StepsReply,
)
from bus.names import ACCOUNTS, KV
from metrics.core.arena import pages_reply
from metrics.core.collector import Collector
from metrics.core.pace import worker_paces
from metrics.core.sheet import Owned, balance, model_sheets
from metrics.core.steps import model_steps
from metrics.host.files import as_list
from metrics.host.watch import Machine, Watch


class Answers:
    """Answers questions.

    Args:
        collector: what processes have said.
        watch: the machine.
        models: as configured.
    """

    def __init__(self, collector: Collector, watch: Watch, models: Sequence[ModelConfig]) -> None:
        self._collector, self._watch, self._models = collector, watch, models

    def answer(self, question: Question, now_ns: int) -> Details:
        """As of now."""
        collector, rid = self._collector, question.rid
        span_s = collector.span_s(now_ns)
        match question:
            case GetSteps():
                return StepsReply(
                    rid,
                    now_ns,
                    tuple(
                        model_steps(name, log, heard, collector.series, now_ns, span_s)
                        for name, log, heard in collector.schedulers()
                        if question.model in ("", log.model)
                    ),
                )
            case GetPages():
                return pages_reply(rid, now_ns, collector.views, collector.series, span_s)
            case GetHost():
                return self._host(rid, now_ns, span_s)
            case GetBus():
                return BusReply(rid, now_ns, collector.endpoints.all(collector.views))
            case GetModels():
                return self._sheet(rid, now_ns)
            case GetAllowances():
                said = collector.views.accounts.get(ACCOUNTS)
                return AllowancesReply(rid, now_ns, said.at_ns, said.view) if said else AllowancesReply(rid, now_ns, 0)

    def _machine(self, now_ns: int) -> Machine:
        collector = self._collector
        processes = [(name, member.sample.pid) for name, member in collector.fleet.members.items() if not member.gone]
        return self._watch.read(processes, collector.arena_bytes, now_ns)

    def _host(self, rid: int, now_ns: int, span_s: float) -> HostReply:
        machine, collector = self._machine(now_ns), self._collector
        node_of = {core.cpu: core.node for core in machine.cores}
        places = {
            pid: (place.cpu, as_list(set(place.cpus)), node_of.get(place.cpu, -1))
            for pid, place in machine.places.items()
        }
        return HostReply(
            rid, now_ns, machine.host, machine.kernel, machine.processor, machine.up_s, machine.cores, machine.nodes,
            machine.memory, machine.load, machine.pressure, machine.gpus,
            worker_paces(collector.fleet, collector.series, places, now_ns, span_s), machine.gpu_trouble,
        )  # fmt: skip

    def _sheet(self, rid: int, now_ns: int) -> ModelsReply:
        machine, collector = self._machine(now_ns), self._collector
        members = {name: member for name, member in collector.fleet.members.items() if not member.gone}
        owned = Owned(
            self._watch.private([member.sample.pid for member in members.values()]),
            self._watch.memory_files(members[KV].sample.pid) if KV in members else 0,
        )
        return ModelsReply(
            rid, now_ns, machine.memory.total,
            model_sheets(self._models, collector.views, collector.fleet),
            balance(machine.memory, collector.views, collector.fleet, owned),
        )  # fmt: skip
