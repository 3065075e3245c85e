"""Reading a GGUF file's metadata: against the library that writes them, and against damage."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import pytest
from tiny_tokenizer import END, tiny_metadata

from bus.config import ModelConfig
from ingress.models import ModelUnusable, load
from ingress.text.gguf_metadata import GgufError, read_metadata


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file written by the reference library, with every type of value."""
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in tiny_metadata().items():
        if key != "general.architecture":
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    writer.add_uint8("x.u8", 200)
    writer.add_int8("x.i8", -3)
    writer.add_uint16("x.u16", 60000)
    writer.add_int16("x.i16", -30000)
    writer.add_uint64("x.u64", 2**63)
    writer.add_int64("x.i64", -(2**62))
    writer.add_float32("x.f32", 0.5)
    writer.add_float64("x.f64", 1e300)
    writer.add_bool("x.bool", True)
    writer.add_string("x.text", "naïve 😀")
    writer.add_array("x.nested", [[1, 2], [3]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_value_is_what_the_library_wrote(file: Path) -> None:
    found = read_metadata(file)
    assert {key: found[key] for key in tiny_metadata()} == tiny_metadata()
    assert [found[f"x.{name}"] for name in ("u8", "i8", "u16", "i16", "u64", "i64")] == [
        200, -3, 60000, -30000, 2**63, -(2**62),
    ]  # fmt: skip
    assert (found["x.f32"], found["x.f64"], found["x.bool"], found["x.text"]) == (0.5, 1e300, True, "naïve 😀")
    assert found["x.nested"] == [[1, 2], [3]]


def test_a_file_cut_anywhere_is_refused_by_name(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(64), *range(64, len(whole) - 64, 97)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(GgufError, match=r"cut\.gguf"):
            read_metadata(cut)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63) + b"k", "ends in the middle"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77) + bytes(8), "type 77"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**50), "does not fit"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2) + b"\xff\xfe" + struct.pack("<I", 7) + b"\1", "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,
         "nested"),
    ],
)  # fmt: skip
def test_damage_is_told_apart(tmp_path: Path, damage: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(damage)
    with pytest.raises(GgufError, match=message):
        read_metadata(path)


def test_a_model_loads_from_the_file(file: Path) -> None:
    model = load(ModelConfig(name="tiny", source=str(file), context_tokens=100))
    assert model.context_tokens == 100
    assert model.eos_ids == (END,)
    assert model.template is not None
    assert model.template.render([{"role": "user", "content": "hello"}]).endswith("<|im_start|>assistant\n")


def test_a_truncated_model_is_unusable(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ModelUnusable, match=r"^model tiny: \S+tiny\.gguf: .*is it complete"):
        load(ModelConfig(name="tiny", source=str(file)))
