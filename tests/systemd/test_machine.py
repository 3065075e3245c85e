"""The test machine itself: a real systemd boots, sees this host's files, and changes nothing of them."""

from pathlib import Path

import pytest
from machine import Failed, Machine

pytestmark = pytest.mark.machine


def test_a_machine_boots_runs_a_unit_and_leaves_nothing() -> None:
    mine = Path(__file__).parent
    with Machine.boot("plain", binds={mine: "/opt/tests"}) as machine:
        assert machine.run("cat", "/proc/1/comm").stdout.strip() == "systemd"
        assert machine.run("ls", "/opt/tests/machine.py").stdout
        with pytest.raises(Failed, match="Read-only"):
            machine.run("touch", "/opt/tests/here")
        machine.write(
            "/etc/systemd/system/demo.service",
            "[Service]\nType=oneshot\nUser=nobody\nExecStart=/bin/sh -c 'id -un; echo from the unit'\n",
        )
        machine.systemctl("daemon-reload")
        machine.systemctl("start", "demo.service")
        assert "from the unit" in machine.journal("--unit=demo.service")
        state, group = machine.state, machine._group
    assert not Path("/etc/systemd/system/demo.service").exists()
    assert not state.exists()
    assert not group.exists()


def test_its_network_is_its_own() -> None:
    with Machine.boot("net") as machine:
        assert machine.run("ls", "/sys/class/net").stdout.split() == ["lo"]
        with pytest.raises(OSError, match="refused"):
            machine.connect(1)
