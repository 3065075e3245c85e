"""One rank of a group, as a process of its own: `python rank.py SCENARIO DIRECTORY RANK RANKS`. Prints JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from driving import PlainPages, as_array, make_open, make_plan
from toy import PAGE_TOKENS, VOCABULARY, Toy, toy_pages

from bus.messages.requests import Sampling
from workers.group import GlooGroup, GroupBroken, NcclGroup
from workers.rendezvous import Rendezvous
from workers.step.execute import Executor, StepBroken
from workers.step.slots import Slots

TIMEOUT_S = 20.0


def enter(directory: Path, rank: int, ranks: int, *, device: bool) -> GlooGroup | NcclGroup:
    rendezvous = Rendezvous(directory, rank, ranks, epoch=1)
    while (meeting := rendezvous.poll()) is None:
        time.sleep(0.01)
    if device:
        return NcclGroup(meeting.store, rank, ranks, TIMEOUT_S, torch.device("cpu"), backend="gloo")
    return GlooGroup(meeting.store, rank, ranks, TIMEOUT_S)


def executor_of(group: GlooGroup, poison: int = -1) -> Executor:
    slots = Slots(4, 64, PAGE_TOKENS, VOCABULARY, 32, torch.device("cpu"))
    return Executor(Toy(poison), slots, PlainPages(toy_pages(32)), group)


def collectives(group: GlooGroup) -> object:
    """Each collective once; uneven shards."""
    rank = group.rank
    width = [3, 1][rank]
    group.agree(7, 1, 0)
    return {
        "sum": group.all_reduce(torch.full((2,), float(rank + 1), dtype=torch.bfloat16)).tolist(),
        "gathered": group.all_gather_last(torch.arange(width).repeat(2, 1) + 10 * rank, [3, 1]).tolist(),
        "shared": group.share(torch.full((2,), 5 + rank)).tolist(),
    }


def device_collectives(group: NcclGroup) -> object:
    """A GPU's group, with gloo for NCCL. Sums are those of the order of ranks, in any company."""
    rank = group.rank
    group.agree(7, 1, 0)
    mine = torch.tensor([[[1e8, 3.0], [1.0, 2.0], [-1e8, 1.0]][rank]], dtype=torch.float32)
    return {
        "sum": group.all_reduce(mine.clone()).tolist(),
        "alone": group.all_reduce(mine.repeat(5, 1))[2:3].tolist(),
        "agreed": [group.agree(7, 2, 0), group.agree(7, 3, rank // 2)],
        "gathered": group.all_gather_last(torch.arange(2).repeat(2, 1) + 10 * rank, [2, 2, 2]).tolist(),
        "shared": group.share(torch.full((2,), 5 + rank)).tolist(),
    }


def device_pages(group: NcclGroup) -> object:
    """Each rank has its own heads of pages in memory of its own, and writes them to its part of one arena."""
    from real import CPU

    from workers.attention.interface import own_heads
    from workers.hbm.copier import HostCopier
    from workers.hbm.pages import DevicePages
    from workers.models.load import build, load_weights

    job = json.loads(sys.argv[5])
    weights = load_weights(Path(job["path"]), dtype=torch.float32, rank=group.rank, ranks=group.ranks)
    shape, ids = tuple(job["shape"]), job["ids"]
    arena = torch.from_file(job["arena"], shared=True, size=int(np.prod(shape)), dtype=torch.float32).view(shape)
    cells = own_heads(arena, weights.shard.kv_heads)
    frames = torch.full((shape[0] + 1, *cells.shape[1:]), float("nan"))
    pages = DevicePages(frames, HostCopier(frames, cells), PlainPages(cells))
    vocabulary = weights.architecture.vocabulary
    slots = Slots(2, 64, shape[4], vocabulary, shape[0], CPU, placement=pages)
    executor = Executor(build(weights, group, CPU), slots, pages, group)
    table = list(range(shape[0]))
    executor.run(make_plan(1, [(0, 0, len(ids), True)], opens=[make_open(0, ids, table)]))
    for step in range(job["count"] - 1):
        executor.run(make_plan(2 + step, [(0, len(ids) + step, 1, True)]))
    # The others' heads are in the arena only now, and it is theirs that this rank must not need.
    group.agree(1, 99, 0)
    length = len(ids) + job["count"]
    return slots.ids(np.zeros(length, np.int64), np.arange(length)).tolist()[len(ids) :]


def draws(group: GlooGroup) -> object:
    """Every rank has the tokens that rank 0 drew, so the next step agrees; only rank 0 reports them. It reads a step
    when the next one is launched, the others before."""
    executor = executor_of(group)
    opened = make_open(0, [1, 2, 3], [4, 5, 6], sampling=Sampling(temperature=1.0, seed=group.rank))
    tokens = []
    for step in range(1, 6):
        start, count = (0, 3) if step == 1 else (step + 1, 1)
        plan = make_plan(step, [(0, start, count, True)], opens=[opened] if step == 1 else [])
        executor.launch(plan)
        if group.rank or executor.in_flight == 2:
            tokens += as_array(executor.finish().tokens)
    while executor.in_flight:
        tokens += as_array(executor.finish().tokens)
    sequence = executor._slots.ids(np.zeros(8, np.int64), np.arange(8)).tolist()
    return {"tokens": tokens, "sequence": sequence}


def poisoned(group: GlooGroup) -> object:
    """Only rank 0 looks at logits, yet all ranks fail the step, for the same reason, and go on."""
    executor = executor_of(group, poison=9)
    try:
        executor.run(make_plan(1, [(2, 0, 1, True)], opens=[make_open(2, [9], [4])]))
    except StepBroken as broken:
        failed = [list(broken.slots), broken.together]
    result = executor.run(make_plan(2, [(2, 0, 1, True)], opens=[make_open(2, [8], [4])]))
    return {"failed": failed, "slots": as_array(result.slots)}


def one_dies(group: GlooGroup) -> object:
    """Rank 1 dies in the middle; rank 0 does not wait for ever."""
    if group.rank == 1:
        os._exit(9)
    began = time.monotonic()
    try:
        for _ in range(100):
            group.all_reduce(torch.ones(4))
    except GroupBroken:
        return {"broken": True, "within_timeout": time.monotonic() - began < TIMEOUT_S + 5}
    return {"broken": False}


def disagree(group: GlooGroup) -> object:
    """The ranks were left at different plans."""
    try:
        group.agree(7, 1 + group.rank, 0)
    except GroupBroken:
        return {"broken": True}
    return {"broken": False}


def family(group: GlooGroup) -> object:
    """A small model of a directory; the job is the last argument."""
    from real import CPU, driver_of

    from workers.models.load import load_model

    job = json.loads(sys.argv[5])
    model = load_model(
        Path(job["path"]), dtype=torch.float32, device=CPU, rank=group.rank, ranks=group.ranks, collectives=group
    )
    driver, ids = driver_of(model, group=group), job["ids"]
    driver.run([(0, 0, len(ids), True)], opens=[make_open(0, ids, driver.pages_for(len(ids) + job["count"]))])
    for step in range(job["count"] - 1):
        driver.run([(0, len(ids) + step, 1, True)])
    length = len(ids) + job["count"]
    return driver.executor._slots.ids(np.zeros(length, np.int64), np.arange(length)).tolist()[len(ids) :]


def real(group: GlooGroup) -> object:
    """A real model; the job is the last argument."""
    from real import driver_of, load, reference

    job = json.loads(sys.argv[5])
    driver = driver_of(load(job["model"], group), group=group)
    by_name = {prompt["name"]: prompt for prompt in reference(job["model"])}
    generated: list[object] = []
    for name in job["prompts"]:
        ids = by_name[name]["ids"]
        # The driver would wait for results, which only rank 0 gets: plans that need none.
        opened = make_open(0, ids, driver.pages_for(len(ids) + job["count"]), sampling=Sampling(logprobs=0))
        results = [driver.run([(0, 0, len(ids), True)], opens=[opened])]
        results += [driver.run([(0, len(ids) + step, 1, True)]) for step in range(job["count"] - 1)]
        driver.free = list(range(320))
        if group.rank == 0:
            tokens = [as_array(result.tokens)[0] for result in results]
            generated.append((tokens, [dict(result.logprobs)[0].chosen for result in results]))
    length = len(ids) + job["count"]
    sequence = driver.executor._slots.ids(np.zeros(length, np.int64), np.arange(length)).tolist()
    return {"generated": generated, "tokens_in_slot": sequence}


if __name__ == "__main__":
    scenario, directory, rank, ranks = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    group = enter(directory, rank, ranks, device=scenario.startswith("device"))
    print(json.dumps(globals()[scenario](group)), flush=True)
    os._exit(0)  # without a farewell to the others, who may be dead
