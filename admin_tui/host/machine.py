"""The machine as pictures: memory, pressure, cores by node, GPUs. Pure drawings."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from rich.text import Text

from admin_tui import palette
from admin_tui.draw import Box, Field, bar, cut, grid, pairs, segments
from admin_tui.glyphs import Glyphs
from admin_tui.text import NOTHING, duration, percent, sanitize, size
from bus.messages.details import Core, Gpu, HostReply, Node

BUSY: Final = 0.9
PRESSED: Final = 0.2  # waits for something a fifth of the time
SLOW_CLOCK: Final = 0.9  # of what the other busy cores run at
BUSY_ENOUGH: Final = 0.5
STOLEN: Final = 0.05
BAR_CELL: Final = 28


def overview(host: HostReply, box: Box) -> list[Text]:
    """What it is, its memory as one bar, and what is short."""
    load1, load5, load15 = host.load
    loaded = palette.WARN if load1 > 1.5 * max(1, len(host.cores)) else palette.TEXT
    head = Text(sanitize(host.processor, 48) or "unknown processor", palette.TEXT)
    head.append(f"   {len(host.cores)} cores, {len(host.nodes)} NUMA node{'s' * (len(host.nodes) != 1)}", palette.SOFT)
    head.append(f"   {sanitize(host.kernel, 32)}   up {duration(host.up_s)}", palette.SOFT)
    pressed = Text("waited for ", palette.SOFT)
    for pressure in host.pressure:
        high = palette.WARN if pressure.some_10s > PRESSED else palette.TEXT
        pressed.append(f"{sanitize(pressure.what, 8)} ", palette.SOFT)
        pressed.append(f"{percent(pressure.some_10s)}  ", high)
    pressed.append("of 10 s" if host.pressure else "unknown: no PSI in this kernel", palette.SOFT)
    load = pairs(("load", f"{load1:.2f}", loaded), ("", f"{load5:.2f} {load15:.2f}", palette.SOFT), gap=0)
    load.append("    ")
    load.append_text(pressed)
    return [head, load, *_memory(host, box.width, box.glyphs)]


def _memory(host: HostReply, width: int, glyphs: Glyphs) -> list[Text]:
    memory = host.memory
    used = max(0, memory.total - memory.available)
    arena = min(used, memory.arena)
    parts = [
        (float(arena), palette.WATER),
        (float(used - arena), palette.PREFILL),
        (float(memory.available), palette.LINE),
    ]
    full, rest, free = glyphs.pages[3], glyphs.pages[4], glyphs.pages[0]
    drawn = segments(parts, width, glyphs, full + rest + free)
    low = palette.CRIT if memory.available < 0.05 * memory.total else palette.TEXT
    legend = Text.assemble(
        ("memory ", palette.SOFT), (f"{size(memory.total)}   ", palette.TEXT),
        (f"{full} arena ", palette.WATER), (f"{size(arena)}   ", palette.TEXT),
        (f"{rest} processes and rest ", palette.PREFILL), (f"{size(used - arena)}   ", palette.TEXT),
        (f"{free} available ", palette.SOFT), (size(memory.available), low),
    )  # fmt: skip
    if memory.swap_used:
        legend.append(f"   {glyphs.states['late']} swap {size(memory.swap_used)}", palette.WARN)
    if memory.huge_total:
        taken = memory.huge_total - memory.huge_free
        legend.append(f"   huge pages {taken}/{memory.huge_total} of {size(memory.huge_page_bytes)}", palette.SOFT)
    return [drawn, legend]


def cores(host: HostReply, box: Box) -> list[Text]:
    """Cores by node, in the first of these ways that fits: a line each, several a line, a character each."""
    usual = _usual_mhz(host.cores)
    for draw in (_in_lines, _in_bars, _in_cells):
        lines = [line for node in _nodes(host) for line in (_node_head(host, node), *draw(_of(host, node), usual, box))]
        if len(lines) <= box.height:
            break
    return cut(lines, box.height)


def _nodes(host: HostReply) -> tuple[Node, ...]:
    return host.nodes or (Node(0, "", 0, 0),)


def _of(host: HostReply, node: Node) -> list[Core]:
    return [core for core in host.cores if core.node == node.node] if host.nodes else list(host.cores)


def _node_head(host: HostReply, node: Node) -> Text:
    mine = _of(host, node)
    busy = sum(core.busy for core in mine) / len(mine) if mine else 0.0
    line = Text(f"node {node.node}", f"bold {palette.TEXT}")
    line.append(f"  cpus {sanitize(node.cpus, 40)}  busy {percent(busy)}", palette.SOFT)
    if node.total_bytes:
        line.append(f"  memory free {size(node.free_bytes)} of {size(node.total_bytes)}", palette.SOFT)
    return line


def _in_lines(cores: Sequence[Core], usual: float, box: Box) -> list[Text]:
    lines = []
    for core in cores:
        line = Text(f"  cpu {core.cpu:<4}", palette.SOFT)
        line.append_text(bar(core.busy, max(8, min(40, box.width // 4)), box.glyphs, _heat(core.busy)))
        line.append(f" {percent(core.busy):>5}", palette.TEXT)
        if core.steal >= 0.005:
            line.append(f"  stolen {percent(core.steal)}", palette.WARN if core.steal > STOLEN else palette.SOFT)
        line.append_text(_clock(core, usual, box.glyphs))
        who = [f"{name} (pinned)" if name in core.pinned else name for name in core.running]
        line.append(f"  {', '.join(sanitize(name, 64) for name in who)}", palette.TEXT)
        lines.append(line)
    return lines


def _in_bars(cores: Sequence[Core], usual: float, box: Box) -> list[Text]:
    each = max(1, (box.width - 2) // BAR_CELL)
    lines = []
    for at in range(0, len(cores), each):
        line = Text("  ")
        for core in cores[at : at + each]:
            slow = core.steal > STOLEN or _clocked_down(core, usual)
            line.append(f"{core.cpu:>4} ", palette.SOFT)
            line.append_text(bar(core.busy, BAR_CELL - 14, box.glyphs, _heat(core.busy)))
            line.append(f" {percent(core.busy):>5}", palette.TEXT)
            line.append(f" {box.glyphs.states['late']} " if slow else "   ", palette.WARN)
        lines.append(line)
    return lines


def _in_cells(cores: Sequence[Core], usual: float, box: Box) -> list[Text]:  # noqa: ARG001
    glyphs, room = box.glyphs, max(8, box.width - 2)
    lines = []
    for at in range(0, len(cores), room):
        line = Text("  ")
        for core in cores[at : at + room]:
            level = min(len(glyphs.spark) - 1, int(core.busy * len(glyphs.spark)))
            line.append(glyphs.spark[level] if core.busy >= 0.005 else glyphs.dot, _heat(core.busy))
        lines.append(line)
    return lines


def _heat(busy: float) -> str:
    return palette.WATER if busy > BUSY else palette.GOOD if busy > 0.05 else palette.FAINT


def _usual_mhz(cores: Sequence[Core]) -> float:
    """Median clock of busy cores: what a core is to be compared with, since all of them boost less than one alone."""
    clocks = [core.mhz for core in cores if core.mhz and core.busy > BUSY_ENOUGH]
    return median(clocks) if clocks else 0.0


def _clocked_down(core: Core, usual: float) -> bool:
    return core.busy > BUSY_ENOUGH and 0 < core.mhz < SLOW_CLOCK * usual


def _clock(core: Core, usual: float, glyphs: Glyphs) -> Text:
    if not core.mhz:
        return Text()
    text, down = f"  {core.mhz / 1000:.1f} GHz", _clocked_down(core, usual)
    return Text(f"{text} {glyphs.states['late']}", palette.WARN) if down else Text(text, palette.SOFT)


def gpus(host: HostReply, box: Box) -> list[Text]:
    """A line a GPU, then what is wrong with any."""
    fields = (
        Field("GPU", 3, True), Field("NAME", 0), Field("BUSY", 6, True), Field("MEMORY", 13, True),
        Field("POWER W", 9, True), Field("TEMP", 4, True), Field("MHZ", 7, True),
        Field("PCIE IN/OUT", 13, True), Field("ECC", 4, True),
    )  # fmt: skip
    lines = grid(fields, [_gpu(gpu, box.glyphs) for gpu in host.gpus], box.width)
    for gpu in host.gpus:
        if gpu.throttled or gpu.ecc_errors > 0:
            why = ", ".join(sanitize(reason, 24) for reason in gpu.throttled) or "memory errors"
            lines.append(Text(f"{box.glyphs.states['late']} GPU {gpu.gpu}: {why}", palette.WARN))
    return cut(lines, box.height)


def _gpu(gpu: Gpu, glyphs: Glyphs) -> list[Text]:
    text, down = palette.TEXT, bool(gpu.throttled)
    ecc = palette.CRIT if gpu.ecc_errors > 0 else palette.SOFT
    sign = f" {glyphs.states['late']}" if down else ""
    return [
        Text(str(gpu.gpu), palette.WATER),
        Text(f"{sanitize(gpu.name, 32)} {', '.join(sanitize(name, 48) for name in gpu.running)}", text),
        Text(percent(gpu.busy), text),
        Text(f"{size(gpu.memory_used)}/{size(gpu.memory_total)}" if gpu.memory_total >= 0 else NOTHING, text),
        Text(f"{gpu.power_w:.0f}/{gpu.power_limit_w:.0f}" if gpu.power_w >= 0 else NOTHING, text),
        Text(str(gpu.celsius) if gpu.celsius >= 0 else NOTHING, palette.WARN if gpu.celsius > 85 else text),
        Text(f"{gpu.mhz}{sign}" if gpu.mhz >= 0 else NOTHING, palette.WARN if down else text),
        Text(
            f"{size(gpu.pcie_rx_bytes_per_s)}/{size(gpu.pcie_tx_bytes_per_s)}"
            if gpu.pcie_rx_bytes_per_s >= 0 else NOTHING, palette.SOFT,
        ),
        Text(str(gpu.ecc_errors) if gpu.ecc_errors >= 0 else NOTHING, ecc),
    ]  # fmt: skip
