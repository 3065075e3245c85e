"""`headrace capacity`: its numbers are the code's own, and those of docs/capacity.md."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bus.config import BlackboxConfig, Config, IngressConfig, KvConfig, ModelConfig, PoolsConfig
from bus.messages.steps import KvShape
from bus.shapes import ModelShape
from cli.capacity import command
from cli.capacity.counting import JOURNAL_BYTES, REPLAY_BYTES, count, streams
from ingress import journal, replay
from kv.capacity import capacity
from kv.core import Core
from kv.layout import ArenaTooSmall, plan_layout, tables
from kv.slabs import BadShape
from workers.capacity import shape
from workers.step.slots import Slots, slot_bytes

MIB = 1 << 20
PAGE = Path(__file__).parents[2] / "docs" / "capacity.md"
SMOLLM2 = ModelShape(
    "smollm2", KvShape(30, 3, 16, 64, "bfloat16"), 8192, 49152, 96_611_136, True, 64 * (4 * 8193 + 24 * 512),
    64 * 49152 * 4, "the file's own bits, attention by AMX",
)  # fmt: skip


@given(st.integers(4, 200), st.sampled_from([1, 2, 8, 32]), st.integers(1, 400_000))
def test_pages_are_those_that_kv_has(arena_mib: int, slab_mib: int, head_dim: int) -> None:
    arena, slab, kv = arena_mib * MIB, slab_mib * MIB, KvShape(1, 1, 1, head_dim, "float32")
    try:
        found = capacity(arena, slab, kv.page_bytes)
    except ArenaTooSmall:
        return
    layout = plan_layout(found.arena_bytes, slab)
    assert found.arena_bytes >= arena
    assert found.table_bytes + found.slabs * slab == found.arena_bytes
    core = Core(layout, tables(bytearray(layout.data_offset), layout), 1, {}, settling=False)
    try:
        pool = core.slabs.open(b"r" * 16, kv, lambda _: False)
    except BadShape:  # pages larger than a slab: kv has none of them
        assert found.pages == 0
    else:
        assert core.slabs.capacity(pool) == found.pages


def test_tables_of_slots_are_as_large_as_is_said() -> None:
    slots = Slots(7, 1000, 16, 500, 90, torch.device("cpu"))
    tensors = [each for each in vars(slots).values() if isinstance(each, torch.Tensor) and each.dim() == 2]
    arrays = {id(each): each for each in vars(slots).values() if isinstance(each, np.ndarray) and each.ndim == 2}
    assert slot_bytes(7, 1000, 16) == sum(each.nbytes for each in [*tensors, *arrays.values()])


def test_limits_are_those_of_the_ingress() -> None:
    assert (JOURNAL_BYTES, REPLAY_BYTES) == (journal.MAX_BYTES, replay.MAX_BYTES)


@given(st.integers(1, 10**6), st.sampled_from([16, 32, 64]), st.integers(0, 10**6), st.integers(1, 4096))
def test_streams_fit_and_no_more_would(tokens: int, page: int, pages: int, slots: int) -> None:
    found = streams(tokens, page, pages, slots)
    assert found.pages * page >= tokens > (found.pages - 1) * page
    assert found.streams * found.pages <= pages
    assert found.streams <= slots
    if found.bound == "arena":
        assert (found.streams + 1) * found.pages > pages
    else:
        assert found.streams == slots


def test_every_process_is_counted() -> None:
    model = ModelConfig(name="smollm2", source="x.gguf", standby=1, tensor_parallel=2, pools=PoolsConfig(decode=2))
    found = count(Config(model=(model,), ingress=IngressConfig(processes=3)), [SMOLLM2])
    names = [each.what for each in found.memory]
    assert sum(name.startswith("worker@") for name in names) == sum(name.startswith("standby@") for name in names) == 6
    assert sum(name.startswith("ingress@") for name in names) == 3
    assert found.memory_bytes == sum(each.bytes for each in found.memory)
    assert found.models[0].slots == 2 * 64, "requests that run at once are in those that decode"
    assert names[-1] == "recordings"
    assert found.memory[-1].bytes == 20 * 4 * MIB
    off = count(Config(blackbox=BlackboxConfig(size="0")), [SMOLLM2])
    assert off.memory[-1].bytes == 0


def test_the_example_of_the_page_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, but for the line about the host that it was made on."""
    out = io.StringIO()
    monkeypatch.setattr(command, "Console", lambda **_: Console(file=out, width=140, highlight=False))
    monkeypatch.setattr(command, "shapes", lambda _: [SMOLLM2])
    assert command.show(Config(kv=KvConfig(arena="4GiB")), None, as_json=False) == 0
    (example,) = re.findall(r"\$ headrace capacity\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

    def lines(text: str) -> list[str]:
        return [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("this host")]

    assert lines(out.getvalue()) == lines(example)


def test_the_sums_of_the_page_are_right() -> None:
    """Every `a × b = c` in it."""
    sums = re.findall(r"`([\d,. ×+/⌈⌉-]+) = ([\d,]+)`", PAGE.read_text(encoding="utf-8"))
    assert len(sums) >= 4
    for left, right in sums:
        expression = re.sub(r"⌈([^⌉]*)⌉", r"-(-(\1)//1)", left.replace(",", "").replace("×", "*"))
        assert re.fullmatch(r"[\d. */+()-]+", expression)
        assert eval(expression) == int(right.replace(",", "")), left  # noqa: S307 (digits and signs only)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[[model]]\nname = "toy"\nsource = "path:{tmp_path}/none"\n')
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "capacity", "-c", str(config)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 78
    assert "✖ toy: " in done.stdout
    assert "does not exist" in done.stdout


@pytest.mark.model
def test_the_shape_of_a_real_model() -> None:
    model = ModelConfig(name="smollm2", source="catalog:smollm2-135m-instruct", dtype="float32")
    found = shape(model, Config(model=(model,)))
    assert found.problem == ""
    assert found.kv == msgspec.structs.replace(SMOLLM2.kv, dtype="float32")
    assert (found.context_tokens, found.vocabulary, found.slot_bytes) == (8192, 49152, SMOLLM2.slot_bytes)
    assert found.weights_bytes > 80 * MIB
