"""The kernels at sizes of real models: what each is to compute, what torch says of it, and what it has to move.

Everything is made of a seed, on any device: on a CPU, in Triton's interpreter, small cases show that these are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from workers.attention.interface import Attention
from workers.attention.paged import PagedAttention
from workers.attention.triton import TritonAttention
from workers.kernels.triton import activation, embedding, norm, rotary, sample
from workers.kernels.triton.attend import Shape
from workers.kernels.triton.tuning import Tuning
from workers.models.interface import Batch
from workers.operators.products import QuantisedLinear
from workers.sampling.draw import Rows, draw
from workers.weights.quantised.weight import FP8, QuantisedWeight, packed


@dataclass(frozen=True)
class Sizes:
    """Of a model, and of the steps: `decodes` are (rows, context), `chunks` (context before, new tokens)."""

    hidden: int = 4096
    inner: int = 14336
    vocabulary: int = 128256
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    page_tokens: int = 64
    rows: tuple[int, ...] = (1, 32, 256)
    decodes: tuple[tuple[int, int], ...] = ((1, 1024), (1, 4096), (32, 1024), (32, 4096), (128, 1024), (128, 4096))
    chunks: tuple[tuple[int, int], ...] = ((0, 2048), (0, 8192), (6144, 2048), (16384, 512))
    dtype: torch.dtype = torch.bfloat16


LLAMA_8B = Sizes()


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: what.
        run: launches it; called again and again.
        check: raises where the result is not what torch computes.
        moved_bytes: that must be read and written, once; 0 where it is not memory that bounds it.
        flops: floating-point operations; 0 where it is not they.
        eight_bits: they are of FP8 or INT8.
    """

    name: str
    run: Callable[[], object]
    check: Callable[[], None]
    moved_bytes: int = 0
    flops: int = 0
    eight_bits: bool = False


def cases(sizes: Sizes, device: torch.device, tuning: Tuning) -> Iterator[Case]:
    """All of them, one at a time: what one holds is gone when the next is made."""
    kinds = [sizes.dtype, torch.int8, *([torch.float8_e4m3fn] if tuning.fp8 else [])]
    for rows, context in sizes.decodes:
        for kind in kinds:
            yield _attention(sizes, [(context - 1, 1)] * rows, kind, device, tuning)
    for before, new in sizes.chunks:
        yield _attention(sizes, [(before, new)], sizes.dtype, device, tuning)
    for rows in sizes.rows:
        yield from _layer(sizes, rows, device, tuning)
        yield from _products(sizes, rows, device, tuning)
        yield from _ends(sizes, rows, device, tuning)


def _random(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device, generator=torch.Generator(device).manual_seed(len(shape))).to(dtype)


def _close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


def _tolerance(dtype: torch.dtype) -> float:
    return {torch.float32: 1e-4, torch.float16: 4e-3}.get(dtype, 3e-2)


def _attention(
    sizes: Sizes, rows: list[tuple[int, int]], kind: torch.dtype, device: torch.device, tuning: Tuning
) -> Case:
    """A step of rows of (tokens before, new tokens), one layer; new KV is written as in a model."""
    kv_heads, dim, page_tokens = sizes.kv_heads, sizes.head_dim, sizes.page_tokens
    pages_of = [-(-sum(row) // page_tokens) for row in rows]
    cells = torch.randperm(sum(pages_of), generator=torch.Generator().manual_seed(1)).to(device)
    scales = None if kind == sizes.dtype else torch.full((1, 2, kv_heads), 4.0 / 127, device=device)
    pages = torch.zeros(sum(pages_of), 1, 2, kv_heads, page_tokens, dim, dtype=kind, device=device)
    for page in range(len(pages)):  # a page at a time: quantising goes through float32
        values = _random(device, torch.float32, 2, kv_heads, page_tokens, dim).roll(page, -1)
        pages[page, 0] = rotary.as_stored(
            values.permute(2, 0, 1, 3), kind, None if scales is None else scales[0]
        ).permute(1, 2, 0, 3)
    tables, positions, starts = list(cells.split(pages_of)), [], [0]
    for before, new in rows:
        positions.append(torch.arange(before, before + new, device=device))
        starts.append(starts[-1] + new)
    place = torch.cat(positions)
    page_of = torch.cat([table[at // page_tokens] for table, at in zip(tables, positions, strict=True)])
    batch = Batch(place, page_of, place % page_tokens, starts, [sum(row) for row in rows], tables)
    shape = Shape(dim**-0.5)
    ours = TritonAttention(
        range(kv_heads), sizes.heads // kv_heads, dim, [shape], kind, device, scales=scales, tuning=tuning
    )
    query = _random(device, sizes.dtype, starts[-1], sizes.heads, dim)
    kv = _random(device, sizes.dtype, starts[-1], 2, kv_heads, dim)
    ours.plan(batch, pages)

    def check() -> None:
        found = ours.forward(query, kv, 0)
        held = pages.cpu().to(torch.float32, copy=True)
        if scales is not None:
            held *= scales.cpu()[:, :, :, None, None]
        theirs: Attention = PagedAttention(range(kv_heads), sizes.heads // kv_heads)
        on_host = Batch(place.cpu(), page_of.cpu(), batch.offset_of.cpu(), starts, batch.row_context,
                        [table.cpu() for table in tables])  # fmt: skip
        stored = held[on_host.page_of, 0, :, :, on_host.offset_of]  # before the plan, which clears pages that begin
        theirs.plan(on_host, held)
        _close(found.cpu(), theirs.forward(query.cpu().float(), stored, 0), _tolerance(sizes.dtype))

    name = f"{len(rows)} x {rows[0][1]} tokens after {rows[0][0]}, KV {str(kind).removeprefix('torch.')}"
    if rows[0][1] == 1:
        moved = 2 * sum(map(sum, rows)) * kv_heads * dim * kind.itemsize
        return Case(f"decode attention, {name}", lambda: ours.forward(query, kv, 0), check, moved_bytes=moved)
    seen = sum(new * before + new * (new + 1) // 2 for before, new in rows)
    return Case(
        f"prefill attention, {name}", lambda: ours.forward(query, kv, 0), check, flops=4 * seen * sizes.heads * dim
    )


def _layer(sizes: Sizes, rows: int, device: torch.device, tuning: Tuning) -> Iterator[Case]:
    dtype, size, tolerance = sizes.dtype, sizes.dtype.itemsize, _tolerance(sizes.dtype)
    x, residual = _random(device, dtype, rows, sizes.hidden), _random(device, dtype, rows, sizes.hidden)
    weight = _random(device, dtype, sizes.hidden)
    kind = torch.float8_e4m3fn if tuning.fp8 else torch.int8

    def check_norm() -> None:
        expected, _ = norm.reference(x, residual, weight, 1e-5)
        _close(norm.add_rms_norm(x, residual.clone(), weight, 1e-5, tuning), expected, tolerance)
        found, scales = norm.add_rms_norm_quantised(x, residual.clone(), weight, 1e-5, tuning, kind)
        _close(found.float() * scales[:, None], expected, 0.15)

    yield Case(f"residual and norm, {rows} rows", lambda: norm.add_rms_norm(x, residual, weight, 1e-5, tuning),
               check_norm, moved_bytes=4 * x.numel() * size)  # fmt: skip
    yield Case(f"residual, norm and {str(kind).removeprefix('torch.')}, {rows} rows",
               lambda: norm.add_rms_norm_quantised(x, residual, weight, 1e-5, tuning, kind), check_norm,
               moved_bytes=3 * x.numel() * size + x.numel())  # fmt: skip
    gate_up = _random(device, dtype, rows, 2 * sizes.inner)
    yield Case(f"SwiGLU, {rows} rows", lambda: activation.gated(gate_up, tuning),
               lambda: _close(activation.gated(gate_up, tuning), activation.reference(gate_up), tolerance),
               moved_bytes=3 * rows * sizes.inner * size)  # fmt: skip
    qkv = _random(device, dtype, rows, sizes.heads + 2 * sizes.kv_heads, sizes.head_dim)
    angle = _random(device, torch.float32, rows, sizes.head_dim // 2)
    at = torch.arange(rows, device=device)
    pages = torch.zeros(-(-rows // sizes.page_tokens), 2, sizes.kv_heads, sizes.page_tokens, sizes.head_dim,
                        dtype=dtype, device=device)  # fmt: skip
    to = rotary.Destination(pages, at // sizes.page_tokens, at % sizes.page_tokens, None)
    angles = (angle.cos(), angle.sin())

    def check_rotary() -> None:
        expected, expected_pages = qkv.clone(), torch.zeros_like(pages)
        rotary.reference(expected, sizes.kv_heads, angles, to._replace(pages=expected_pages))
        found = qkv.clone()
        rotary.rotate_and_write(found, sizes.kv_heads, angles, to)
        _close(found, expected, tolerance)
        _close(pages, expected_pages, tolerance)

    moved = (2 * qkv.numel() + 2 * rows * sizes.kv_heads * sizes.head_dim) * size
    yield Case(f"rotation and KV, {rows} rows", lambda: rotary.rotate_and_write(qkv, sizes.kv_heads, angles, to),
               check_rotary, moved_bytes=moved)  # fmt: skip


_MEMORY_BOUND_ROWS = 64  # up to here a product waits for weights, and from there for arithmetic


def _products(sizes: Sizes, rows: int, device: torch.device, tuning: Tuning) -> Iterator[Case]:
    """Gate and up with weights of each form, rounding of the inputs included."""
    x = _random(device, sizes.dtype, rows, sizes.hidden)
    for name, weight in _weights(2 * sizes.inner, sizes.hidden, device, fp8=tuning.fp8):
        linear = QuantisedLinear(weight, None, tuning)

        def check(linear: QuantisedLinear = linear, weight: QuantisedWeight = weight) -> None:
            expected = x.float() @ weight.weights().T
            found = linear(x).float()
            # Inputs of 8 bits are off by half a step each; what they add up to goes with the root of their number.
            error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
            assert float(error) < (0.05 if weight.input_scale is not None else 0.01), float(error)

        named, run = f"product, {name}, {rows} rows", partial(linear, x)
        if rows <= _MEMORY_BOUND_ROWS:
            read = sum(part.nbytes for part in weight.tensors().values())
            yield Case(named, run, check, moved_bytes=read + (x.numel() + rows * weight.rows) * sizes.dtype.itemsize)
        else:
            flops = 2 * rows * weight.rows * weight.inputs
            yield Case(named, run, check, flops=flops, eight_bits=weight.input_scale is not None)


def _weights(outputs: int, inputs: int, device: torch.device, *, fp8: bool) -> Iterator[tuple[str, QuantisedWeight]]:
    def small(*shape: int) -> Tensor:
        scales: Tensor = _random(device, torch.float32, *shape).abs() * inputs**-0.5 / 100
        return scales

    floats, whole = _random(device, torch.float32, outputs, inputs), torch.empty(0, device=device)
    group = 128 if inputs % 128 == 0 else inputs
    if fp8:
        numbers = (floats * 100).clamp(-448, 448).to(FP8)
        yield "FP8 by row", QuantisedWeight(numbers, small(outputs, 1), inputs, None, whole)
        yield "FP8 in blocks", QuantisedWeight(numbers, small(outputs, inputs // group), group, None, whole)
    integers = (floats * 30).clamp(-127, 127).to(torch.int8)
    yield "INT8 by row", QuantisedWeight(integers, small(outputs, 1), inputs, None, whole)
    nibbles = packed(integers & 15, group)
    of_groups = small(outputs, inputs // group)
    yield "4 bits with mins", QuantisedWeight(nibbles, of_groups, group, -8 * of_groups)


def _ends(sizes: Sizes, rows: int, device: torch.device, tuning: Tuning) -> Iterator[Case]:
    weight = _random(device, sizes.dtype, sizes.vocabulary, sizes.hidden)
    ids = torch.randint(sizes.vocabulary, (rows,), device=device)

    def check_embedding() -> None:
        assert torch.equal(embedding.embed(ids, weight, 0, tuning), weight[ids])

    yield Case(f"embedding, {rows} rows", lambda: embedding.embed(ids, weight, 0, tuning), check_embedding,
               moved_bytes=2 * rows * sizes.hidden * sizes.dtype.itemsize)  # fmt: skip
    logits = _random(device, torch.float32, rows, sizes.vocabulary) * 3
    for name, top_k, top_p in (("everything", 0, 1.0), ("top-k 50 and top-p 0.9", 50, 0.9)):

        def of(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((rows,), value, dtype=dtype, device=device)

        parameters = sample.Parameters(
            of(0.8, torch.float32), of(top_k, torch.int32), of(top_p, torch.float64), of(0, torch.float32),
            torch.arange(rows, device=device), of(7, torch.int32),
        )  # fmt: skip
        truncated = top_k > 0

        def run(parameters: sample.Parameters = parameters, truncated: bool = truncated) -> sample.Sampled:
            return sample.sample(logits, parameters, tuning, truncated=truncated)

        def check(run: Callable[[], sample.Sampled] = run, top_k: int = top_k, top_p: float = top_p) -> None:
            assert run().tokens.tolist() == _drawn_by_cpu(logits.cpu(), top_k, top_p)

        yield Case(f"draw from {name}, {rows} rows", run, check, moved_bytes=4 * logits.numel())


def _drawn_by_cpu(logits: Tensor, top_k: int, top_p: float) -> list[int]:
    rows = len(logits)
    of = torch.full((rows,), 1.0).numpy()
    parameters = Rows(
        temperature=of * of.dtype.type(0.8), top_k=(of * top_k).astype("int64"), top_p=of.astype("float64") * top_p,
        min_p=of * 0, seeds=torch.arange(rows).numpy(), positions=(of * 7).astype("int64"),
        logprobs=(of * -1).astype("int64"), adjustments=[None] * rows,
    )  # fmt: skip
    drawn: list[int] = draw(logits.clone(), parameters).tokens.tolist()
    return drawn
