"""Which configuration is computed by what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bus.config import ModelConfig
from workers import engine
from workers.engine import Engine, choose
from workers.host import Unsuitable
from workers.kernels.build import NoKernels
from workers.kernels.library import Attention

CPU = torch.device("cpu")


GGUF, DIRECTORY = Path("/m/model.gguf"), Path("/m/model")


def chosen(path: Path, **options: Any) -> Engine:
    return choose(ModelConfig(name="m", source="path:m", **options), CPU, 1, path)


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "library", lambda _: Path("kernels.so"))
    monkeypatch.setattr(engine, "attention_of", lambda _: Attention("AMX", ""))


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Path:
        raise NoKernels("no compiler")

    monkeypatch.setattr(engine, "library", fail)


def scheme(found: Engine) -> str:
    return found.kernels.scheme if found.kernels is not None else "torch"


@pytest.mark.usefixtures("available")
def test_a_quantised_file_is_computed_on_its_own_bits() -> None:
    found = chosen(GGUF)
    assert scheme(found) == "file"
    assert found.dtype is torch.bfloat16
    assert found.name == "the file's own bits, attention by AMX"
    assert found.attends_in == "bfloat16"


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": "float32"}, "torch"),
        ({"quantize": "none"}, "torch"),
        ({"dtype": "float32", "deterministic": True}, "floats"),
        ({"quantize": "none", "deterministic": True}, "floats"),
        ({"deterministic": True}, "file"),
        ({"quantize": "int8"}, "int8"),
    ],
)
def test_what_is_asked_for_is_done(options: dict[str, Any], expected: str) -> None:
    assert scheme(chosen(GGUF, **options)) == expected


@pytest.mark.usefixtures("available")
def test_floats_are_torchs_unless_asked_otherwise() -> None:
    assert scheme(chosen(DIRECTORY)) == "torch"
    assert scheme(chosen(DIRECTORY, quantize="int4")) == "int4"
    assert scheme(chosen(DIRECTORY, deterministic=True)) == "floats"


@pytest.mark.usefixtures("available")
def test_other_numerics_have_another_identity() -> None:
    found = [chosen(GGUF, **options).numerics for options in ({}, {"quantize": "int8"}, {"dtype": "float32"})]
    assert len(set(found)) == 3
    assert found[2] == b""


@pytest.mark.usefixtures("available")
def test_pages_of_float32_are_attended_to_in_float32() -> None:
    found = chosen(GGUF, dtype="float32", deterministic=True)
    assert found.name == "floats, deterministic"
    assert found.attends_in == "float32"


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize("options", [{}, {"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantize": "int8"}])
def test_kv_is_kept_as_it_is_asked_for_whatever_computes(options: dict[str, Any]) -> None:
    asked = {dtype: chosen(GGUF, kv_dtype=dtype, **options) for dtype in ("float32", "bfloat16", "int8")}
    assert [found.kv for found in asked.values()] == [torch.float32, torch.bfloat16, torch.int8]
    assert len({found.dtype for found in asked.values()}) == 1
    if asked["int8"].kernels is not None:
        assert [found.attention for found in asked.values()] == ["", "AMX", "AMX"]


@pytest.mark.usefixtures("available")
def test_torch_in_another_dtype_makes_other_kv() -> None:
    """Given KV of one dtype, computed in two: neither is found under the other's digests."""
    found = [chosen(GGUF, dtype=dtype, kv_dtype="int8").numerics for dtype in ("float32", "bfloat16")]
    assert len({b"", *found}) == 3
    assert chosen(GGUF, dtype="bfloat16", kv_dtype="bfloat16").numerics == b""


@pytest.mark.usefixtures("available")
def test_what_gives_other_bits_here_is_told_once_and_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "attention_of", lambda _: Attention("FMA", "vdpbf16ps"))
    found = chosen(GGUF)
    assert found.name == "the file's own bits, attention by FMA"
    assert found.attends_in == "float32"
    (said,) = caplog.messages
    assert said.startswith("m: attention is computed by fused multiply-adds")
    assert "vdpbf16ps" in said


@pytest.mark.usefixtures("missing")
def test_without_kernels_torch_serves_what_did_not_ask_for_them() -> None:
    assert scheme(chosen(GGUF)) == "torch"


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("options", [{"quantize": "int8"}, {"deterministic": True}])
def test_without_kernels_what_asked_for_them_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(Unsuitable, match=rf"model 'm': {next(iter(options))} = .* cannot be had: no compiler"):
        chosen(GGUF, **options)
