"""The store of ready weights: what comes back is what was made, once, whatever lies on the disk."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forward import Runner
from tiny import tiny, written
from torch import Tensor

from workers.layers.linear import Linear, layout, pack
from workers.models.load import load_model
from workers.weights import store
from workers.weights.source import WeightsError
from workers.weights.store import Key, open_or_make

KEY = Key(b"\x07" * 32, "float32", 0, 1, "plain")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_STATE", str(tmp_path))
    monkeypatch.setattr(store, "KEEP_FREE", 0)
    return tmp_path / "weights"


def some() -> dict[str, Tensor]:
    torch.manual_seed(3)
    shared = torch.randn(5, 7)
    return {
        "shared": shared,
        "again": shared,
        "bias": torch.randn(3).to(torch.bfloat16),
        "columns": torch.randn(4, 6).t(),
        "packed": torch.arange(33, dtype=torch.uint8),
        "number": torch.tensor(1.5),
    }


class Maker:
    """Counts how often it had to work."""

    def __init__(self, tensors: Callable[[], dict[str, Tensor]] = some) -> None:
        self.calls, self._tensors = 0, tensors

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return self._tensors()


def assert_same(found: Any, expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_made_once_and_mapped_from_then_on(place: Path) -> None:
    make = Maker()
    first, second = open_or_make(KEY, make), open_or_make(KEY, make)
    assert make.calls == 1
    assert_same(first, some())
    assert_same(second, some())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in second.values())
    assert second["shared"].data_ptr() == second["again"].data_ptr()
    (file,) = place.iterdir()
    assert file.name == KEY.file
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert any(line.endswith(file.name) and " r--s " in line for line in maps), "not shared and read-only"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_blocked_weight_computes_what_it_did(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    weight, bias = torch.randn(96, 64).to(dtype), torch.randn(96).to(dtype)
    own = pack(weight)
    found = open_or_make(KEY, lambda: {"weight": own})["weight"]
    assert found.is_mkldnn == own.is_mkldnn
    assert found.shape == weight.shape
    for rows in (1, 3, 40):
        x = torch.randn(rows, 64).to(dtype)
        assert torch.equal(Linear(found, bias)(x), Linear(own, bias)(x))
    tensors = open_or_make(KEY, Maker())
    weight = tensors["weight"]
    del tensors, found
    assert torch.equal(Linear(weight)(x), Linear(own)(x)), "a tensor alone keeps the file mapped"


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def cut_short(file: Path) -> None:
    os.truncate(file, 20)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[80] ^= 1
    file.write_bytes(data)


def of_another(file: Path) -> None:
    other = KEY._replace(digest=b"\x08" * 32)
    open_or_make(other, some)
    file.with_name(other.file).replace(file)


@pytest.mark.parametrize("damage", [cut, cut_short, empty, flip, of_another])
def test_a_damaged_file_is_made_again(place: Path, damage: Callable[[Path], None]) -> None:
    mapped = open_or_make(KEY, some)
    damaged = place / KEY.file
    copy = damaged.with_name("copy")  # the file itself is mapped: cutting it would kill this process
    copy.write_bytes(damaged.read_bytes())
    damage(copy)
    copy.replace(damaged)
    make = Maker()
    assert_same(open_or_make(KEY, make), some())
    assert_same(open_or_make(KEY, make), some())
    assert make.calls == 1
    assert_same(mapped, some())


def test_one_makes_and_the_others_wait() -> None:
    def slowly() -> dict[str, Tensor]:
        time.sleep(0.2)
        return some()

    make, found = Maker(slowly), []
    threads = [threading.Thread(target=lambda: found.append(open_or_make(KEY, make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert make.calls == 1
    for each in found:
        assert_same(each, some())


def test_what_a_dead_maker_left_is_in_nobodys_way(place: Path) -> None:
    place.mkdir()
    (place / KEY.file).with_suffix(".part").write_bytes(b"half of it")
    assert_same(open_or_make(KEY, some), some())
    assert [file.name for file in place.iterdir()] == [KEY.file]


def test_a_maker_that_fails_says_so_and_the_next_one_tries(place: Path) -> None:
    def broken() -> dict[str, Tensor]:
        raise WeightsError(Path("model.gguf"), "no good")

    with pytest.raises(WeightsError, match="no good"):
        open_or_make(KEY, broken)
    assert not list(place.iterdir())
    assert_same(open_or_make(KEY, some), some())


def test_a_full_disk_costs_only_the_sharing(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    make = Maker()
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert_same(open_or_make(KEY, make), some())
    assert make.calls == 1
    assert not list(place.iterdir())
    assert "No space left" in caplog.text


def test_space_is_left_for_others(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "KEEP_FREE", 1 << 60)
    assert_same(open_or_make(KEY, some), some())
    assert not list(place.iterdir())
    assert "free space" in caplog.text


def test_a_place_that_cannot_be_used_costs_only_the_sharing(place: Path) -> None:
    place.write_text("in the way")
    make = Maker()
    assert_same(open_or_make(KEY, make), some())
    assert make.calls == 1


def test_what_is_replaced_or_long_unused_is_swept(place: Path) -> None:
    newer, sibling, old = KEY._replace(layout="newer"), KEY._replace(rank=1, ranks=2), KEY._replace(digest=b"\x09" * 32)
    for key in (KEY, sibling, old):
        open_or_make(key, some)
    long_ago = time.time() - store.UNUSED_S - 1
    os.utime(place / old.file, (long_ago, long_ago))
    open_or_make(newer, some)
    assert {file.name for file in place.iterdir()} == {newer.file, sibling.file}
    open_or_make(sibling, Maker())
    assert (place / sibling.file).stat().st_mtime > time.time() - 60


@pytest.mark.parametrize(("family", "ranks"), [("llama", 1), ("qwen2", 1), ("qwen2", 2)])
def test_a_mapped_model_computes_what_a_loaded_one_does(tmp_path: Path, family: str, ranks: int) -> None:
    """Bit for bit; that the loaded one is right, test_models_tiny says."""
    path = written(tiny(family, tie_word_embeddings=family == "llama"), tmp_path / "model.gguf")
    loaded, mapped = Runner(path, ranks=ranks), Runner(path, ranks=ranks)
    for _ in range(2):  # made, then found
        mapped.models = [
            load_model(
                path,
                dtype=torch.float32,
                device=torch.device("cpu"),
                rank=rank,
                ranks=ranks,
                keep=lambda make, rank=rank: open_or_make(KEY._replace(rank=rank, ranks=ranks, layout=layout()), make),  # type: ignore[misc]
                **mapped.collectives(rank),
            )
            for rank in range(ranks)
        ]
        prompt = [5, 17, 3, 99, 42]
        assert torch.equal(*(runner.logits(runner.step([("one", prompt)])[0]) for runner in (loaded, mapped)))
        for runner in (loaded, mapped):
            runner.free("one")


def test_it_is_known_whether_others_can_share_them() -> None:
    assert not store.is_kept(KEY)
    open_or_make(KEY, some)
    assert store.is_kept(KEY)
