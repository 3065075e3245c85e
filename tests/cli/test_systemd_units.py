"""Units made of configurations: what is in them, what is pinned where, how exposed they are. systemd itself starts them
in tests/systemd.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.config import Config, CurveConfig, IngressConfig, KvConfig, ModelConfig, SystemdConfig
from bus.messages.control import UnitStatus
from cli.supervisor.plan import desired_units
from cli.systemd.ends import last, parse, remember
from cli.systemd.exposure import measure
from cli.systemd.host import cpu_list, this_host
from cli.systemd.install import install, remove
from cli.systemd.placement import Host, Node, TooFewGpus, place
from cli.systemd.running import config_of, parse_units
from cli.systemd.screen import services
from cli.systemd.units import MARK, UNITS, Layout, Unfit, fill, process_of, render, unit_of

TWO_NODES = Host((Node(0, tuple(range(8))), Node(1, tuple(range(8, 16)))), gpus=4)


def model(name: str, **keys: object) -> ModelConfig:
    return ModelConfig(name=name, source="path:/srv/models/x", **keys)  # type: ignore[arg-type]


def drop_in(files: dict[str, str], unit: str) -> str:
    return files[f"{UNITS}/{unit}.d/30-configuration.conf"]


# --- placement --------------------------------------------------------------------------------------------------------

configs = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=3
).map(
    lambda models: Config(
        model=tuple(
            model(f"m{index}", replicas=replicas, tensor_parallel=ranks, threads=threads)
            for index, (replicas, ranks, threads) in enumerate(models)
        )
    )
)  # fmt: skip
hosts = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(
    lambda sizes: Host(
        tuple(Node(n, tuple(range(100 * n, 100 * n + size))) for n, size in enumerate(sizes)), gpus=0
    )
)  # fmt: skip


@given(configs, hosts)
def test_a_core_belongs_to_one_rank_and_a_rank_to_one_node(config: Config, host: Host) -> None:
    places = place(config, host)
    assert places.keys() == {unit.name for unit in desired_units(config) if unit.role == "worker"}
    given_out = [cpu for each in places.values() for cpu in each.cpus]
    assert len(given_out) == len(set(given_out))
    by_number = {node.number: set(node.cpus) for node in host.nodes}
    pinned = [each for each in places.values() if each.cpus]
    assert len(pinned) in (0, len(places))
    for each in pinned:
        assert len(each.cpus) == each.threads
        assert set(each.cpus) <= by_number[each.node]


def test_the_ranks_of_a_replica_share_a_node_where_they_fit() -> None:
    places = place(
        Config(model=(model("a", tensor_parallel=2, threads=4), model("b", tensor_parallel=2, threads=4))), TWO_NODES
    )
    assert {places["worker@a.0.0"].node, places["worker@a.0.1"].node} == {0}
    assert {places["worker@b.0.0"].node, places["worker@b.0.1"].node} == {1}


def test_nobody_is_pinned_where_not_all_can_be_or_when_told_not_to() -> None:
    crowded = Config(model=(model("a", replicas=3, threads=8),))
    told = Config(model=(model("a", threads=2),), systemd=SystemdConfig(pin="off"))
    for config in (crowded, told):
        assert all(not each.cpus and each.node == -1 for each in place(config, TWO_NODES).values())


def test_each_rank_has_a_gpu_of_its_own_or_the_configuration_is_refused() -> None:
    config = Config(model=(model("a", replicas=2, tensor_parallel=2, device="cuda"),))
    assert [each.gpu for each in place(config, TWO_NODES).values()] == [0, 1, 2, 3]
    with pytest.raises(TooFewGpus, match="4 GPUs, this host has 1"):
        place(config, TWO_NODES._replace(gpus=1))
    lines = drop_in(render(config, TWO_NODES, Layout()), "headrace-worker@a.1.0.service")
    assert "BindPaths=/dev/nvidia2\n" in lines
    assert "DeviceAllow=/dev/nvidia2 rw" in lines
    assert "/dev/nvidia1" not in lines


# --- files ------------------------------------------------------------------------------------------------------------


def test_every_process_has_a_unit_that_the_target_wants() -> None:
    config = Config(
        ingress=IngressConfig(processes=3), model=(model("a.b-c", replicas=2, standby=1), model("d", tensor_parallel=2))
    )
    files = render(config, TWO_NODES, Layout())
    wanted = drop_in(files, "headrace.target")
    for unit in desired_units(config):
        service = unit_of(unit.name)
        assert f"Wants={service}\n" in wanted
        assert process_of(service) == unit.name
        assert f"{UNITS}/{re.sub('@.*[.]service', '@.service', service)}" in files
    for socket in ("headrace-scheduler@a.b-c.socket", "headrace-ingress@2.socket"):
        assert f"Wants={socket}\n" in wanted


def test_every_file_is_marked_and_filled() -> None:
    for path, text in render(Config(), TWO_NODES, Layout(executable="/x/headrace")).items():
        assert MARK in text.splitlines()[0]
        assert not re.search(r"@[A-Z]+@", text), path
    with pytest.raises(KeyError):
        fill("@NONSENSE@", {})


def test_the_ranks_of_a_replica_are_a_target_and_share_a_network() -> None:
    files = render(Config(model=(model("m", tensor_parallel=2),)), TWO_NODES, Layout())
    rank = drop_in(files, "headrace-worker@m.0.0.service")
    assert "PartOf=headrace-tp@m.0.target" in rank
    assert "JoinsNamespaceOf=headrace-worker@m.0.1.service" in rank
    assert "Restart=no" in rank
    assert drop_in(files, "headrace-tp@m.0.target").count("Wants=") == 2
    with_standby = render(Config(model=(model("m", tensor_parallel=2, standby=1),)), TWO_NODES, Layout())
    rank = drop_in(with_standby, "headrace-worker@m.0.0.service")
    assert "Restart=no" not in rank
    assert rank.count("JoinsNamespaceOf=") == 3


def test_addresses_secrets_and_directories_are_where_the_configuration_says() -> None:
    config = Config(
        ingress=IngressConfig(http="[::1]:80", zmq="tcp://*:8200", processes=2),
        kv=KvConfig(disk="1GiB", disk_path="/mnt/pages"),
        curve=CurveConfig(secret="/etc/headrace/host.secret", clients="/etc/headrace/clients"),
    )
    files = render(config, TWO_NODES, Layout())
    assert "ListenStream=[::1]:80\n" in files[f"{UNITS}/headrace-http.socket"]
    assert "ListenStream=0.0.0.0:8201\n" in drop_in(files, "headrace-ingress@1.socket")
    assert "LoadCredential=curve.secret:/etc/headrace/host.secret" in drop_in(files, "headrace-ingress@0.service")
    assert "ReadWritePaths=/mnt/pages" in drop_in(files, "headrace-kv.service")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (Config(ingress=IngressConfig(http="example.org:80")), "not on names"),
        (Config(ingress=IngressConfig(http="127.0.0.1:0")), "a port is needed"),
        (Config(model=(ModelConfig(name="m", source="path:/home/me/model"),)), "ProtectHome"),
    ],
)
def test_what_units_cannot_do_is_refused_with_what_to_change(config: Config, what: str) -> None:
    with pytest.raises(Unfit, match=what):
        render(config, TWO_NODES, Layout())


# --- exposure: the gate -----------------------------------------------------------------------------------------------

BROAD = (
    "[ingress]\nhttp = '0.0.0.0:443'\nprocesses = 2\nzmq = 'tcp://*:8200'\n"
    "[curve]\nsecret = '/etc/s'\nclients = '/etc/c'\n"
    "[[model]]\nname = 'a'\nsource = 'path:/srv/a'\nstandby = 1\n[[model]]\nname = 'b'\nsource = 'path:/srv/b'\n"
    "tensor_parallel = 2\n"
)
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def installed(tmp_path: Path, text: str = BROAD) -> Path:
    (tmp_path / "headrace.toml").write_text(text)
    assert install(tmp_path, tmp_path / "headrace.toml", Layout("/bin/true"), dry_run=False, enable=False) == 0
    return tmp_path


@needs_analyze
def test_no_service_is_more_exposed_than_its_limit(tmp_path: Path) -> None:
    found = measure(installed(tmp_path))
    assert {"headrace-kv.service", "headrace-standby@a.0.0.service", "headrace-worker@b.0.1.service"} <= {
        f.unit for f in found
    }
    assert {each.limit for each in found if re.search("kv|scheduler", each.unit)} == {1.0}
    assert all(each.good for each in found), found
    for each in found:  # and by the gate of systemd's own: a threshold is ten times a score
        gate = ["systemd-analyze", "security", "--offline=yes", f"--threshold={round(each.limit * 10)}"]
        subprocess.run([*gate, str(tmp_path / UNITS / each.unit)], check=True, capture_output=True)


@needs_analyze
def test_the_gate_closes_when_the_hardening_is_gone(tmp_path: Path) -> None:
    root = installed(tmp_path)
    (root / UNITS / "headrace-.service.d" / "10-hardening.conf").unlink()
    assert not any(each.good for each in measure(root))


# --- install ----------------------------------------------------------------------------------------------------------


def test_an_install_is_repeatable_shrinks_and_can_be_taken_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = installed(tmp_path)
    mine = root / UNITS / "headrace-kv.service.d" / "override.conf"
    mine.write_text("[Service]\nNice=1\n")
    before = {path: path.stat().st_mtime_ns for path in (root / "etc").rglob("*") if path.is_file()}
    installed(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    installed(tmp_path, BROAD[: BROAD.index("[[model]]\nname = 'b'")])
    assert not list((root / UNITS).glob("*@b*"))
    assert remove(root) == 0
    left = [path for path in (root / "etc").rglob("*") if path.is_file()]
    assert left == [mine]
    capsys.readouterr()
    assert remove(root) == 0
    assert "nothing" in capsys.readouterr().out


def test_without_a_configuration_an_example_is_put_there(tmp_path: Path) -> None:
    assert install(tmp_path, None, Layout(), dry_run=False, enable=False) == 0
    assert "[[model]]" in (tmp_path / "etc/headrace/headrace.toml").read_text()


def test_a_bad_configuration_installs_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[ingress]\nhttp = 'example.org:80'\n")
    assert install(tmp_path, tmp_path / "bad.toml", Layout(), dry_run=False, enable=False) == 78
    assert not (tmp_path / "etc").exists()


# --- what systemd says of what runs -----------------------------------------------------------------------------------

SHOWN = """\
MainPID=0
NRestarts=3
ExecMainStartTimestampMonotonic=5000000
ExecMainCode=1
ExecMainStatus=78
ExecStart={ path=/x/headrace ; argv[]=/x/headrace run kv@host -c /etc/headrace/headrace.toml ; ignore_errors=no ; }
Id=headrace-kv.service
LoadState=loaded
ActiveState=failed

MainPID=41
NRestarts=1
ExecMainStartTimestampMonotonic=5000000
ExecMainCode=0
ExecMainStatus=0
Id=headrace-standby@m.0.0.service
LoadState=loaded
ActiveState=active

Id=headrace-drain.service
LoadState=loaded
ActiveState=active
"""


def test_units_are_told_by_the_names_that_their_processes_hold() -> None:
    found = parse_units(SHOWN, {41: "worker@m.0.0"}, 9.0)
    assert found == {
        "headrace-kv.service": UnitStatus("kv@host", 0, "failed", 3, 0.0, "exit code 78 (bad configuration)"),
        "headrace-standby@m.0.0.service": UnitStatus("worker@m.0.0", 41, "ready", 1, 4.0, ""),
    }
    assert config_of(SHOWN) == "/etc/headrace/headrace.toml"


def test_a_screen_sees_units_with_their_memory_and_how_they_ended(tmp_path: Path) -> None:
    more = SHOWN.replace(
        "Id=headrace-kv.service", "Id=headrace-kv.service\nSubState=failed\nResult=exit-code\nMemoryCurrent=[not set]"
    ).replace(
        "Id=headrace-standby@m.0.0.service",
        "Id=headrace-standby@m.0.0.service\nSubState=running\nResult=success\nMemoryCurrent=5000\nMemoryMax=infinity",
    )
    standby = parse(f"headrace-standby@m.0.0.service {'5c4f' * 8} signal killed SEGV", 1.0)
    assert standby is not None
    remember(tmp_path, [standby])
    remember(tmp_path, [])
    kv, worker = services(more, {41: "worker@m.0.0"}, 9.0, last(tmp_path))
    assert (kv.process, kv.status, kv.state, kv.memory) == ("kv@host", "failed", "failed (failed)", 0)
    assert kv.last_stop == "exit code 78 (bad configuration)"
    assert (worker.process, worker.unit) == ("worker@m.0.0", "headrace-standby@m.0.0.service")
    assert (worker.memory, worker.most, worker.restarts, worker.last_stop) == (5000, 0, 1, "killed by SIGSEGV")
    (tmp_path / "ends.json").write_text("{")
    assert last(tmp_path) == {}


def test_this_host_has_cores() -> None:
    assert cpu_list("0-2,5\n") == [0, 1, 2, 5]
    assert cpu_list("\n") == []
    assert this_host().cores >= 1
