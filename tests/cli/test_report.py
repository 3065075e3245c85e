"""Reports: nothing secret is in them, wherever it stood; they are written whole or not at all, and kept in number."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.blackbox.form import RECEIVED
from bus.blackbox.recorder import Recorder
from bus.config import BlackboxConfig, Config, CurveConfig, ModelConfig
from bus.curve import generate, write_pair
from bus.messages.clients import Call
from bus.messages.requests import Sampling, Submit
from bus.packed import pack_u32
from bus.wire import CHANNELS, Channel, Codec
from cli.blackbox.command import Asked
from cli.blackbox.command import show as blackbox
from cli.report import bundle
from cli.report.bundle import About, BadBundle, crash_path, kept, let_go, read, recordings_of, write
from cli.report.command import crash_report, listing, report, show
from cli.report.contents import Part
from cli.report.secrets import REMOVED, Secrets
from cli.report.shown import summary
from cli.supervisor.crashes import AGAIN_S, PATIENCE_S, Pace, is_crash

PROMPT: Final = [40961, 40962, 40963, 40964, 40965, 40966]
ABOUT: Final = About(at="2026-01-01T00:00:00+00:00", build="1", host="h")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RUN", "STATE"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"HEADRACE_{name}", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(path: Path) -> bytes:
    return b"\n".join(name.encode() + b"\n" + data for name, data in read(path).items())


# --- secrets -------------------------------------------------------------------------------------------------------


def say(to: Recorder, channel: Channel, body: msgspec.Struct) -> None:
    head, frame = Codec(channel, type(body)).encode(body, "ingress@0", 1, 1, 1)
    to.message(RECEIVED, CHANNELS[channel], b"ingress@0", head, frame, body)


def test_nothing_secret_is_in_a_report_wherever_it_stood(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, _ = write_pair(place / "curve", "host", pair := generate())
    (place / "credentials").mkdir()
    (place / "credentials" / "api-keys").write_text("tenant-a plantedcredential1\nplantedcredential2\n")
    planted = {
        "curve": pair.secret.decode(),
        "environment": "planted-hub-token-123",
        "credential": "plantedcredential1",
        "credential of a line": "plantedcredential2",
        "bearer": "plantedbearer123",
        "shape": "sk-plantedplantedplanted",
        "url": "planteduser:plantedpassword",
        "assigned": "plantedassigned",
        "private key": "cGxhbnRlZHByaXZhdGVrZXk",
        "authorization": "Bearer plantedauthorization",
        "prompt": "my planted prompt",
    }
    monkeypatch.setenv("HF_TOKEN", planted["environment"])
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(place / "credentials"))
    config = Config(
        curve=CurveConfig(secret=str(secret), clients=str(place / "curve")),
        model=(ModelConfig(name="toy", source=f"path:https://{planted['url']}@example.org/x.gguf"),),
        blackbox=BlackboxConfig(size="256KiB", content=True),
    )
    lines = [
        f"curve says {planted['curve']}",
        f"hub: {planted['environment']}; {planted['credential']} and {planted['credential of a line']}",
        f"GET / Authorization: Bearer {planted['bearer']}",
        f"used {planted['shape']} for https://{planted['url']}@example.org/",
        f'{{"api_key": "{planted["assigned"]}", "max_tokens": 17}}',
        f"-----BEGIN EC PRIVATE KEY-----\n{planted['private key']}\n-----END EC PRIVATE KEY-----",
    ]
    with Recorder.open(place / "RUN", "scheduler@toy", 7, config.blackbox) as its:
        for text in lines:
            its.line(text)
        say(its, "requests", Submit(5, pack_u32(PROMPT), Sampling(), 8))
        say(its, "clients", Call(1, "models", planted["prompt"].encode(), planted["authorization"]))
    log = place / "STATE" / "log" / "scheduler@toy.log"
    log.parent.mkdir()
    log.write_text("\n".join(lines) + "\nstep_tokens = 512 stays\n")
    fatal = place / "RUN" / "blackbox" / "scheduler@toy.7.fatal"
    fatal.write_text(f"Fatal Python error\n{planted['curve']}\n")
    (place / "RUN" / "headrace.toml").write_text(f'# {planted["assigned"]}\n[log]\nlevel = "info"\n')
    (place / "RUN" / "supervisor.json").write_text(msgspec.json.encode({"config": planted["environment"]}).decode())

    assert report(config, place / "report.tar.gz") == 0
    assert crash_report(config, "scheduler@toy", f"because of {planted['curve']}") == 0
    for path in (place / "report.tar.gz", kept()[0].path):
        everything = contents(path)
        for what, value in planted.items():
            assert value.encode() not in everything, what
        assert b"40961" not in everything
        assert pack_u32(PROMPT) not in everything
        assert b"plantedpassword" not in everything
        # And it is still of use.
        assert b"step_tokens = 512 stays" in everything
        assert b'"max_tokens":17' in everything or b'"max_tokens": 17' in everything
        assert b'[[model]]\nname = "toy"' in everything
        assert f'secret = "{secret}"'.encode() not in everything
        assert str(place / "curve").encode() in everything
    (told,) = recordings_of(place / "report.tar.gz")
    submit = next(entry for entry in told.entries if entry.message == "Submit")
    assert submit.fields["prompt"] == {"hidden_bytes": 24}
    assert told.fatal == f"Fatal Python error\n{REMOVED}\n"
    assert (place / "report.tar.gz").stat().st_mode & 0o777 == 0o600


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60), st.text(alphabet="abcXYZ019+/=-", min_size=8))
def test_a_known_value_is_removed_from_any_text(text: str, value: str) -> None:
    secrets = Secrets(frozenset({value}))
    assert value not in secrets.clean(f"{text}{value}{text}")
    cleaned = secrets.clean_tree({"a": [text + value, {"b": (value,)}], "token": "x", "n": 5})
    assert value not in msgspec.json.encode(cleaned).decode()
    assert cleaned["token"] == REMOVED
    assert cleaned["n"] == 5


def test_what_is_no_secret_stays() -> None:
    text = "step_tokens = 512, context_tokens: 4096, 17 tokens, secretary, prompt tokens=5, http://127.0.0.1:8080/v1"
    assert Secrets(frozenset({"ab"})).clean(text) == text


def test_no_text_takes_for_ever() -> None:
    secrets = Secrets(frozenset({"planted"}))
    for text in ("a_" * 200_000, "://" * 200_000, "-----BEGIN PRIVATE KEY-----" * 20_000, "secret=" * 100_000):
        assert len(secrets.clean(text)) <= len(text) * 2


# --- the file ------------------------------------------------------------------------------------------------------


def test_parts_that_cannot_be_had_do_not_keep_the_others_away(place: Path) -> None:
    assert report(None, None) == 0
    (path,) = place.glob("headrace-report-*.tar.gz")
    parts = read(path)
    assert "TimeoutError" in parts["metrics.txt.missing"].decode()
    assert "FileNotFoundError" in parts["supervisor.json.missing"].decode()
    assert msgspec.json.decode(parts["status.json"])["processes"] == []
    assert msgspec.json.decode(parts["host.json"])["python"]["version"]
    assert b"[ingress]" not in parts["config.toml"]


def test_without_room_nothing_is_written_and_nothing_left(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
    assert report(Config(), place / "r.tar.gz") == 1
    assert "less than 256 MiB are free" in capsys.readouterr().err
    monkeypatch.undo()

    def parts() -> object:
        yield Part("a", bytes(100_000))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write(place / "r.tar.gz", ABOUT, parts())  # type: ignore[arg-type]
    assert sorted(path.name for path in place.iterdir()) == ["RUN", "STATE"]


@pytest.mark.usefixtures("place")
def test_crash_reports_are_kept_in_number(capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(5):
        let_go(2)
        write(crash_path(f"worker@toy.{at}.0", at), ABOUT, ())
        abandoned = bundle.crash_directory() / f".x{bundle.SUFFIX}.{2**22 + at}"
        abandoned.write_bytes(b"of a writer that was killed")
    assert [each.path.name.partition("Z-")[2] for each in kept()] == [
        "worker@toy.2.0.tar.gz", "worker@toy.3.0.tar.gz", "worker@toy.4.0.tar.gz",
    ]  # fmt: skip
    kept()[0].path.write_bytes(b"damaged")
    assert listing(as_json=False) == 0
    assert "cannot be read" in capsys.readouterr().out
    let_go(0)
    assert not list(bundle.crash_directory().iterdir())
    assert crash_report(Config(), "../../etc/passwd", "x") == 2
    assert crash_report(Config(blackbox=BlackboxConfig(crashes=0)), "kv@host", "x") == 0
    assert not kept()


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8b"])
def test_what_is_no_report_is_refused(place: Path, data: bytes) -> None:
    (place / "x").write_bytes(data)
    with pytest.raises(BadBundle, match="cannot be read as a report"):
        read(place / "x")
    with tarfile.open(place / "y", "w:gz") as tar:
        tar.add(place / "x", "headrace-report/config.toml")
    with pytest.raises(BadBundle, match="no report"):
        read(place / "y")


# --- when one is written -------------------------------------------------------------------------------------------


def test_signals_and_bugs_are_crashes() -> None:
    assert [code for code in (None, 0, 1, 69, 70, 75, 78, -9, -11) if is_crash(code)] == [70, -9, -11]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100), st.booleans()), max_size=60))
def test_reports_keep_their_pace(deaths: list[tuple[str, float, bool]]) -> None:
    pace, now, begun, busy_until = Pace(), 0.0, dict[str, float](), 0.0
    for name, passed, ended in deaths:
        now += passed
        if ended:
            pace.ended()
            busy_until = 0.0
        expected = now >= busy_until and (name not in begun or now - begun[name] >= AGAIN_S)
        assert pace.allows(name, now) == expected
        if expected:
            begun[name], busy_until = now, now + PATIENCE_S


def test_the_supervisor_has_a_report_written_of_a_crash(host, waiting: Callable[..., None]) -> None:
    assert host.up().returncode == 0
    host.kill("metrics@host", signal.SIGTERM)  # as it should end
    host.kill("kv@host", signal.SIGSEGV)
    crashes = host.home / "s" / "crashes"
    waiting(lambda: crashes.is_dir() and list(crashes.glob("[!.]*")), "a report is there", 60)
    (path,) = crashes.glob("[!.]*")
    about = msgspec.json.decode(read(path)["about.json"], type=About)
    assert (about.process, about.cause) == ("kv@host", "killed by SIGSEGV")
    dead = next(each for each in recordings_of(path) if each.process == "kv@host" and each.fatal)
    assert "Segmentation fault" in dead.fatal
    assert dead.entries
    waiting(lambda: host.status()["kv@host"].state == "ready", "kv is back")
    assert "killed by SIGSEGV" in host.headrace("report", "list").stdout
    assert host.headrace("blackbox", "--last-death").stdout.startswith("kv@host, epoch ")
    began = time.monotonic()
    assert host.headrace("down").returncode == 0
    assert time.monotonic() - began < 60
    assert os.listdir(crashes) == [path.name]


# --- reports from elsewhere ----------------------------------------------------------------------------------------


def hostile(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        about = msgspec.json.encode(ABOUT)
        for info, data in [(member("about.json"), about), *members]:
            info.size = info.size or len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name: str, **changes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"headrace-report/{name}")
    for key, value in changes.items():
        setattr(info, key, value)
    return info


ESCAPE: Final = "\x1b]2;OWNED\x07\x9b31m\u202e[/red]"
HOSTILE_ENTRY: Final = {
    "at": ESCAPE, "at_ns": 1, "process": f"kv@host{ESCAPE}", "epoch": 1, "number": 1, "kind": ESCAPE, "peer": ESCAPE,
    "message": "StepPlan", "fields": {"slots": ESCAPE}, "text": ESCAPE,
}  # fmt: skip


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (member("../../etc/passwd"), "no part of a report"),
        (member("logs/.."), "no part of a report"),
        (member("/etc/passwd"), "no part of a report"),
        (member("a/b/c"), "no part of a report"),
        (member(f"logs/{ESCAPE}.log"), "no part of a report"),
        (member("config.toml", type=tarfile.SYMTYPE, linkname="/etc/shadow"), "no plain file"),
        (member("config.toml", type=tarfile.LNKTYPE, linkname="/etc/shadow"), "no plain file"),
        (member("config.toml", type=tarfile.CHRTYPE), "no plain file"),
        (member("logs", type=tarfile.DIRTYPE), "no plain file"),
        (member("about.json"), "twice"),
    ],
    ids=["up", "dots", "absolute", "deep", "escape", "symlink", "hardlink", "device", "directory", "twice"],
)
def test_a_report_that_write_could_not_have_made_is_refused(
    place: Path, info: tarfile.TarInfo, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = hostile(place / "x.tar.gz", (info, b"" if info.type != tarfile.REGTYPE else b"x"))
    before = sorted(place.rglob("*"))
    assert show(path, "") == 1
    out, err = capfd.readouterr()
    assert why in err
    assert not out
    assert err.replace("\n", "").isprintable()
    assert sorted(place.rglob("*")) == before


def bomb(place: Path) -> Path:
    """A hundred kilobytes that unpack to a gigabyte."""
    path = place / "bomb.tar.gz"
    info = member("logs/kv@host.log", size=1 << 30)
    with gzip.open(path, "wb", 6) as file:
        about = msgspec.json.encode(ABOUT)
        file.write(member("about.json", size=len(about)).tobuf() + about.ljust(512, b"\0") + info.tobuf())
        for _ in range(1024):
            file.write(bytes(1 << 20))
    return path


def sparse(place: Path) -> Path:
    """A file that says that it has a terabyte of holes, as GNU tar writes them."""
    info = member("logs/kv@host.log", pax_headers={
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "headrace-report/logs/kv@host.log",
        "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1",
    })  # fmt: skip
    return hostile(place / "sparse.tar.gz", (info, b"x"))


def crowd(place: Path) -> Path:
    return hostile(place / "crowd.tar.gz", *((member(f"logs/{n}.log"), b"") for n in range(bundle.MOST_PARTS)))


def long_name(place: Path) -> Path:
    """A name of a gigabyte: read into memory by whoever believes its header."""
    path = place / "long.tar.gz"
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with gzip.open(path, "wb", 6) as file:
        file.write(info.tobuf())
        for _ in range(1024):
            file.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize("make", [bomb, sparse, crowd, long_name])
def test_nothing_unpacks_to_more_than_a_report_can_be(place: Path, make: Callable[[Path], Path]) -> None:
    path = make(place)
    tracemalloc.start()
    try:
        with pytest.raises(BadBundle, match="refused: "):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * bundle.MOST_READ
    finally:
        tracemalloc.stop()


def test_what_a_report_says_reaches_no_terminal(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    about = msgspec.structs.replace(ABOUT, process="kv@host", cause=ESCAPE, host=ESCAPE)
    parts = {
        "host.json": {"os": {"name": ESCAPE, "kernel": [1]}, "cpu": {"model": ESCAPE}, "memory": {"total": ESCAPE}},
        "status.json": {"processes": [{"name": ESCAPE, "pid": {}}, 5, None], "names": ESCAPE},
        "units.json": [{"Id": ESCAPE, "NRestarts": 3}, "x"],
        "ends.json": [{"unit": f"headrace-kv.service{ESCAPE}", "process": "kv@host", "cause": ESCAPE}],
    }
    head = {"process": "kv@host", "epoch": 1, "pid": 1, "build": ESCAPE, "same_boot": True}
    lines = b"\n".join(map(msgspec.json.encode, [head, HOSTILE_ENTRY, {**HOSTILE_ENTRY, "kind": "sent"}]))
    path = place / "x.tar.gz"
    write(path, about, [
        *(Part(name, msgspec.json.encode(tree)) for name, tree in parts.items()),
        Part("logs/kv@host.log", f"{ESCAPE}\n".encode() * 40), Part("blackbox/kv@host.1.jsonl", lines),
        Part("blackbox/kv@host.1.fatal", ESCAPE.encode()), Part("metrics.txt.missing", ESCAPE.encode()),
    ])  # fmt: skip
    assert show(path, "") == 0
    assert show(path, "logs/kv@host.log") == 0
    for name, as_json in (("", False), ("kv@host", False), ("", True)):
        assert blackbox(Asked(name=name, bundle=path, as_json=as_json, everything=True)) == 0
    out, err = capfd.readouterr()
    assert "OWNED" in out
    assert (out + err).replace("\n", "").replace("\t", "").isprintable()
    assert "kv@host crashed: " in out


KEYS: Final = ["os", "name", "cpu", "memory", "total", "processes", "packages", "Id", "unit", "process", "version"]
TREES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)


@given(TREES, st.sampled_from(["host.json", "status.json", "units.json", "ends.json"]))
def test_no_shape_of_a_part_is_too_odd(tree: object, name: str) -> None:
    about = msgspec.json.encode(msgspec.structs.replace(ABOUT, process="kv@host"))
    lines = list(summary({"about.json": about, name: msgspec.json.encode(tree)}))
    assert lines[0].startswith("report of h, ")
    assert all(line.isprintable() for line in lines)


def test_a_real_report_is_read_on_another_host(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Recorder.open(place / "RUN", "scheduler@toy", 7, BlackboxConfig(size="256KiB")) as its:
        its.line("12:00:00.000 I scheduler@toy the last that it said")
        say(its, "requests", Submit(5, pack_u32(PROMPT), Sampling(), 8))
    (place / "STATE" / "log").mkdir()
    (place / "STATE" / "log" / "scheduler@toy.log").write_text("12:00:00.000 I scheduler@toy in its log\n")
    assert crash_report(Config(), "scheduler@toy", "killed by SIGSEGV") == 0
    path = kept()[0].path.rename(place / "elsewhere.tar.gz")
    shutil.rmtree(place / "RUN")
    capsys.readouterr()
    assert show(path, "") == 0
    out = capsys.readouterr().out
    for text in (
        "scheduler@toy crashed: killed by SIGSEGV",
        "kernel ",
        "torch ",
        "in its log",
        "the last that it said",
        "request 5: prompt of 6 tokens",
        "blackbox/scheduler@toy.7.jsonl",
        "supervisor.json.missing",
    ):
        assert text in out, text
    assert show(path, "no/such") == 1
    assert show(place / "none", "") == 1
