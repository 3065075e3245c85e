"""The sandbox of a rank on a GPU: it has its own, and the others are not there. No driver is behind the nodes, so one
that may be opened says ENXIO; what a driver does is beyond this test.
"""

from __future__ import annotations

import pytest
from machine import Machine

from bus.config import Config, ModelConfig
from cli.systemd.placement import Host, Node
from cli.systemd.units import UNITS, Layout, render

pytestmark = pytest.mark.machine

TRY = """#!/usr/bin/python3
import errno, os, sys
for node in ("nvidia0", "nvidia1", "nvidiactl", "sda"):
    try:
        os.close(os.open(f"/dev/{node}", os.O_RDWR))
        print(node, "opened")
    except OSError as error:
        print(node, errno.errorcode[error.errno])
"""


def test_a_rank_reaches_its_own_gpu_only() -> None:
    config = Config(model=(ModelConfig(name="m", source="path:/srv/m", device="cuda", replicas=2),))
    files = render(config, Host((Node(0, (0,)),), gpus=2), Layout())
    common = {f"{UNITS}/headrace-.service.d/10-hardening.conf", f"{UNITS}/headrace-worker@.service.d/20-compute.conf"}
    with Machine.boot("devices") as machine:
        nodes = {"nvidia0": "195 0", "nvidia1": "195 1", "nvidiactl": "195 255", "nvidia-uvm": "510 0"}
        for node, number in nodes.items():
            machine.run("mknod", "-m", "666", f"/dev/{node}", "c", *number.split())
        machine.write("/usr/local/bin/try", TRY, 0o755)
        for path in common | {f"{UNITS}/headrace-worker@m.1.0.service.d/30-configuration.conf"}:
            machine.write(f"/{path}", files[path].replace("Wants=headrace-gpu-setup.service\n", ""))
        machine.write(
            f"/{UNITS}/headrace-worker@.service",
            "[Service]\nType=oneshot\nUser=nobody\nRestart=no\nExecStart=/usr/local/bin/try\n",
        )
        machine.systemctl("daemon-reload")
        machine.systemctl("start", "headrace-worker@m.1.0.service")
        said = machine.journal("--unit=headrace-worker@m.1.0.service", "--output=cat")
        assert "nvidia1 ENXIO" in said
        assert "nvidiactl ENXIO" in said
        assert "nvidia0 ENOENT" in said
        assert "sda ENOENT" in said
        # Its node is gone: the unit fails at once, instead of a worker that computes on the CPU.
        machine.run("rm", "/dev/nvidia1")
        machine.systemctl("start", "headrace-worker@m.1.0.service", check=False)
        assert machine.show("headrace-worker@m.1.0.service", "ExecMainStatus")["ExecMainStatus"] == "226"
