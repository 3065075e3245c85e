"""A library looks whether its processor's instructions for bfloat16 give the bits that attention is defined by."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from test_kernels_attention import HERE, PROCESSORS, hidden
from tiny import saved, tiny

from workers.kernels import build
from workers.kernels.library import attention_of

pytestmark = pytest.mark.kernels

OWN = {"amx": "AMX", "vdpbf16ps": "vdpbf16ps"}
DOT = "return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);"
# `vdpbf16ps` as documented, which is right; then as a processor might have it.
DOCUMENTED = "return fma(even_bf16(a), even_bf16(b), fma(odd_bf16(a), odd_bf16(b), acc));"
OTHER_DOTS = {
    "even first": "return fma(odd_bf16(a), odd_bf16(b), fma(even_bf16(a), even_bf16(b), acc));",
    "rounded products": "return even_bf16(a) * even_bf16(b) + (odd_bf16(a) * odd_bf16(b) + acc);",
    "pairs first": "return acc + fma(even_bf16(a), even_bf16(b), odd_bf16(a) * odd_bf16(b));",
    "with denormals": "const unsigned had = _mm_getcsr(); _mm_setcsr(0x1f80);"
    f'asm volatile("" : "+v"(acc) :: "memory"); vf r = {DOCUMENTED.removeprefix("return ")}'
    'asm volatile("" : "+v"(r) :: "memory"); _mm_setcsr(had); return r;',
}
EMULATED = Path(__file__).parent / "emulated_amx.h"
PROBE = """
#include "attention_check.h"
extern "C" {
const char* headrace_attention() { return own_tiles() == Own::USED ? OwnTiles::NAME : FloatTiles<true>::NAME; }
const char* headrace_refused() { return own_tiles() == Own::DIFFERENT ? OwnTiles::NAME : ""; }
}
"""
needs = {name: pytest.mark.skipif(name not in HERE, reason=f"this processor has no {own}") for name, own in OWN.items()}


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources, to be changed. What is compiled of them is of this test."""
    copy = tmp_path / "native"
    shutil.copytree(build.NATIVE, copy)
    monkeypatch.setattr(build, "NATIVE", copy)
    monkeypatch.setattr(build, "READY", tmp_path / "none")
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path / "state"))
    return copy


def replace(source: Path, was: str, by: str) -> None:
    text = source.read_text()
    assert text.count(was) == 1
    source.write_text(text.replace(was, by))


@pytest.mark.parametrize("processor", HERE)
def test_instructions_of_this_processor_are_used(processor: str) -> None:
    """Intel's, at least, keep to the paper."""
    found = attention_of(build.library(PROCESSORS[processor]))
    assert found == (OWN.get(processor, "FMA"), "")


@needs["vdpbf16ps"]
@pytest.mark.parametrize("other", ["documented", *OTHER_DOTS])
def test_another_dot_product_is_noticed(other: str, native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(native / "attention_dot.h", DOT, OTHER_DOTS.get(other, DOCUMENTED))
    (native / "decoder.cpp").write_text(PROBE)
    monkeypatch.setattr(build, "_COMMON", tuple("-O1" if flag == "-O3" else flag for flag in build._COMMON))
    found = attention_of(build.library(PROCESSORS["vdpbf16ps"]))
    assert found == (("vdpbf16ps", "") if other == "documented" else ("FMA", "vdpbf16ps"))


@needs["vdpbf16ps"]
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_tiles_of_amx_give_the_same_bits(
    dtype: torch.dtype, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AMX in plain C++, as its manual has it, where no processor does."""
    paths = [
        saved(tiny("qwen2", num_hidden_layers=1, max_position_embeddings=1024, head_dim=dim), tmp_path / str(dim))
        for dim in (48, 64, 80)
    ]
    expected = [hidden(path, 580, 10, dtype=dtype) for path in paths]
    native: Path = request.getfixturevalue("native")
    shutil.copy(EMULATED, native / "amx.h")
    monkeypatch.setattr(build, "_COMMON", (*(flag for flag in build._COMMON if flag != "-O3"), "-O1", "-D__AMX_BF16__"))
    assert attention_of(build.library(PROCESSORS["vdpbf16ps"])) == ("AMX", "")
    for path, bits in zip(paths, expected, strict=True):
        assert torch.equal(hidden(path, 580, 10, processor="vdpbf16ps", dtype=dtype), bits)


@needs["amx"]
def test_tiles_that_sum_in_another_order_are_not_used_and_change_no_bit(native: Path, tmp_path: Path) -> None:
    """The same terms, in the order of `vdpbf16ps`: right to within rounding, and other bits."""
    path = saved(tiny("qwen2", max_position_embeddings=1024, head_dim=64), tmp_path)
    expected = hidden(path, 590)
    replace(native / "attention_amx.h", "PairTiles<false>", "PairTiles<true>")
    assert attention_of(build.library(PROCESSORS["amx"])) == ("FMA", "AMX")
    assert torch.equal(hidden(path, 590, processor="amx"), expected)
    replace(native / "decoder.cpp", "if (own_tiles() == Own::USED) return", "if (true) return")
    assert not torch.equal(hidden(path, 590, processor="amx"), expected)
