"""GGUF files: every tensor type that is read, and every way in which a file can be broken."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.models.config import read_architecture
from workers.weights.gguf_file import GgufFile
from workers.weights.source import WeightsError

READ = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


def blocks(kind: Kind, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Random bytes of a quantised matrix whose scales are ordinary numbers."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (rows, columns // block * size), dtype=np.uint8)
    # The high byte of every float16 scale: below 0x3C is below 1, so nothing is NaN or infinite.
    raw &= np.uint8(0x3B)
    return raw


def file_with(path: Path, name: str, raw: np.ndarray[Any, Any], kind: Kind | None) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "bb", "ccc"])
    writer.add_tensor(name, raw, raw_dtype=kind)
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", READ)
def test_types_are_dequantised_as_gguf_does(name: str, tmp_path: Path) -> None:
    """Given a matrix larger than a chunk, when all or parts of it are loaded, then they are gguf's numbers."""
    kind = Kind[name]
    raw = blocks(kind, 700, 256)
    file = GgufFile(file_with(tmp_path / "a.gguf", "m", raw, kind))
    expected = torch.from_numpy(gguf.dequantize(raw, kind).copy())
    assert file.shape("m") == (700, 256)
    assert expected.isfinite().all()
    assert expected.std() > 0
    assert torch.equal(file.load("m", torch.float32), expected)
    assert torch.equal(file.load("m", torch.float32, rows=slice(3, 650)), expected[3:650])
    part = file.load("m", torch.float32, columns=slice(7, 100))
    assert torch.equal(part, expected[:, 7:100])
    assert part.is_contiguous()
    assert torch.equal(file.load("m", torch.bfloat16, slice(0, 9), slice(1, 2)), expected[:9, 1:2].bfloat16())
    assert torch.equal(file.load("vector", torch.float32, slice(1, 3)), torch.tensor([1.0, 2.0]))


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = file_with(tmp_path / "a.gguf", "m", blocks(Kind.IQ4_NL, 4, 256), Kind.IQ4_NL)
    with pytest.raises(WeightsError, match=r"a\.gguf: m: type IQ4_NL cannot be read .*Q4_K"):
        GgufFile(path).load("m", torch.float32)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    file = GgufFile(file_with(tmp_path / "a.gguf", "m", np.zeros((2, 2), np.float32), None))
    with pytest.raises(WeightsError, match=r"a\.gguf: other: missing"):
        file.shape("other")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"GGUF", "truncated"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62) + bytes(64), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 62) + bytes(64), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sIQQIQ", 3, 1, 0, 1, b"t", 2, 8, 8, 99, 0), "tensor type 99"),
        (b"GGUF" + struct.pack("<IQQQ1sIQQIQ", 3, 1, 0, 1, b"t", 2, 8, 8, 2, 0), "blocks of 32"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 9), "9 dimensions"),
        (b"GGUF" + struct.pack("<IQQQ1sIQQIQ", 3, 1, 0, 1, b"t", 2, 8, 0, 0, 0), r"shape \[0, 8\]"),
    ],
)
def test_broken_headers_are_refused(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=f"broken.gguf.*{problem}"):
        GgufFile(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        GgufFile(tmp_path / "none.gguf")


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """Law: a file that lacks its end is refused, wherever it was cut."""
    whole = file_with(tmp_path / "a.gguf", "m", np.ones((4, 8), np.float32), None).read_bytes()
    path = tmp_path / "cut.gguf"
    # The writer pads the last tensor to the alignment; that padding may be missing.
    for length in range(len(whole) - 12):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.gguf"):
            GgufFile(path)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_corrupt_bytes_never_do_worse_than_an_error(data: st.DataObject, tmp_path: Path) -> None:
    """Law: whatever bytes change, reading gives tensors or `WeightsError`."""
    source = tmp_path / "a.gguf"
    if not source.exists():
        file_with(source, "m", blocks(Kind.Q8_0, 2, 64), Kind.Q8_0)
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(content)
    try:
        file = GgufFile(path)
        for name in file.names():
            file.load(name, torch.float32)
        read_architecture(path)
    except WeightsError:
        pass


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("general.architecture", "mamba", "'mamba' is not supported"),
        ("llama.rope.scaling.type", "yarn", "rope scaling 'yarn' is not supported"),
        ("llama.rope.dimension_count", 8, "rope over 8 of 16"),
        ("llama.expert_count", 4, "llama.expert_used_count is missing"),
        ("llama.block_count", None, "llama.block_count is missing"),
        ("llama.block_count", "three", "expected an integer"),
        ("llama.attention.head_count_kv", 4, "do not fit"),
        ("llama.embedding_length", 0, "not positive"),
    ],
)
def test_metadata_that_cannot_be_served_is_named(key: str, value: Any, problem: str, tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": 96,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 6,
        "llama.attention.head_count_kv": 3,
        "llama.attention.key_length": 16,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    metadata[key] = value
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"))
    for name, content in metadata.items():
        if isinstance(content, str):
            writer.add_string(name, content)
        elif isinstance(content, float):
            writer.add_float32(name, content)
        elif content is not None:
            writer.add_uint32(name, content)
    writer.add_tensor("token_embd.weight", np.zeros((5, 96), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(WeightsError, match=rf"a\.gguf.*{problem}"):
        read_architecture(path)
