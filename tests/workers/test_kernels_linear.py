"""Products with packed weights: right, and the same bits alone and in any batch, with any threads and processor."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from test_weights_gguf import blocks
from torch import Tensor

from workers.host import cpu_flags
from workers.kernels import build
from workers.kernels.library import Model, Native
from workers.kernels.pack import Packed, pack_codes, pack_floats, packed
from workers.weights.codes import Codes, from_floats, from_gguf

pytestmark = pytest.mark.kernels

AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni", "fma", "f16c"})
KINDS = [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q5_0, Kind.Q5_1, Kind.Q5_K, Kind.Q6_K, Kind.Q8_0]
ROWS = 50  # the last block is not full
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def native(threads: int = 2, processor: frozenset[str] | None = None) -> Native:
    model = Model(hidden=64, intermediate=64, heads=1, kv_heads=1, head_dim=64)
    return Native(build.library(processor or cpu_flags()), model, threads)


def codes(kind: Kind) -> Codes:
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return from_gguf(kind, blocks(kind, ROWS, 512 if block == 256 else 320))


def rounded(x: Tensor) -> Tensor:
    """Activations as the kernels see them: 8 bits for each 32."""
    groups = x.view(len(x), -1, 32)
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return (torch.where(scale > 0, groups / scale, 0).round() * scale).view(x.shape)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_codes_times_activations(kind: Kind) -> None:
    matrix = codes(kind)
    weights = torch.from_numpy(matrix.weights()).double()
    x, bias = torch.randn(11, weights.shape[1]), torch.randn(ROWS)
    expected = rounded(x).double() @ weights.T + bias
    found = native().linear(pack_codes(matrix, bias), x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", FLOATS)
def test_floats_times_activations(name: str) -> None:
    weights, x = torch.randn(ROWS, 96).to(FLOATS[name]), torch.randn(11, 96)
    found = native().linear(pack_floats(weights), x)
    torch.testing.assert_close(found.double(), x.double() @ weights.double().T, rtol=1e-5, atol=1e-4)


def test_activations_of_nothing_and_of_great_size() -> None:
    """Zeros have no scale; a large number beside small ones takes theirs."""
    matrix = codes(Kind.Q8_0)
    x = torch.zeros(3, 320)
    x[1] = 1e-3
    x[1, 5] = 1e4
    x[2, 33] = -1e-30
    found = native().linear(pack_codes(matrix), x)
    expected = rounded(x).double() @ torch.from_numpy(matrix.weights()).double().T
    assert found.isfinite().all()
    assert not found[0].any()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


PACKED: dict[str, Packed] = {kind.name: pack_codes(codes(kind)) for kind in KINDS} | {
    name: pack_floats(torch.randn(ROWS, 96, generator=torch.Generator().manual_seed(0)).to(dtype))
    for name, dtype in FLOATS.items()
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(PACKED)), st.integers(1, 40), st.integers(1, 3), st.data())
def test_a_token_does_not_depend_on_the_others(name: str, tokens: int, threads: int, data: st.DataObject) -> None:
    """Any run of tokens, on any number of threads, gives the bits of the whole."""
    matrix = PACKED[name]
    x = torch.randn(40, matrix.inputs, generator=torch.Generator().manual_seed(1))
    begin = data.draw(st.integers(0, 40 - tokens))
    whole = native(1).linear(matrix, x)
    part = native(threads).linear(matrix, x[begin : begin + tokens].contiguous())
    assert torch.equal(part, whole[begin : begin + tokens])


# Those that this machine has: the best of them is what the other tests use.
LOWER = [each for each in (AVX2, AVX512) if each < cpu_flags()]


@pytest.mark.parametrize("tokens", [1, 8, 9, 16, 17, 37, 80])
@pytest.mark.parametrize("name", sorted(PACKED))
def test_processors_agree(name: str, tokens: int) -> None:
    """What a host with AMX has begun, one with AVX-512 or AVX2 can go on with: the bits are the same."""
    x = torch.randn(tokens, PACKED[name].inputs)
    found = native().linear(PACKED[name], x)
    for processor in LOWER:
        assert torch.equal(found, native(processor=processor).linear(PACKED[name], x))


@pytest.mark.parametrize("bits", [4, 8])
def test_processors_agree_about_many_inputs(bits: int) -> None:
    """More than are taken at once, and an odd number of groups."""
    matrix = pack_codes(from_floats(torch.randn(70, 1056).numpy(), bits), torch.randn(70))
    x = torch.randn(21, 1056)
    x[3] = 0
    found = native().linear(matrix, x)
    for processor in LOWER:
        assert torch.equal(found, native(processor=processor).linear(matrix, x))


def test_processors_agree_about_more_tokens_than_a_cache_keeps() -> None:
    """They are multiplied a part after the other; the last one is not full."""
    matrix = pack_codes(from_floats(torch.randn(70, 4864).numpy(), 4))
    x = torch.randn(301, 4864)
    found = native().linear(matrix, x)
    for processor in LOWER:
        assert torch.equal(found, native(processor=processor).linear(matrix, x))


def test_a_packed_matrix_is_kept_as_tensors() -> None:
    matrix = pack_codes(from_floats(torch.randn(20, 64).numpy(), 4), torch.randn(20))
    again = packed(matrix.tensors("m"), "m")
    x = torch.randn(2, 64)
    assert torch.equal(native().linear(again, x), native().linear(matrix, x))


def test_a_processor_without_avx2_is_told() -> None:
    with pytest.raises(build.NoKernels, match="AVX2"):
        build.library(frozenset({"sse4_2"}))


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.NoKernels, match=r"apt install g\+\+"):
        build.library(AVX2)


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(build.NoKernels, match="out of luck"):
        build.library(AVX2)
    assert not list((tmp_path / "kernels").iterdir()), "nothing half-made is left"
