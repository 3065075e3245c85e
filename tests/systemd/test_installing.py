"""Units of an installation made again, made smaller and taken away; in a machine of its own, as nothing is left."""

from __future__ import annotations

import pytest
from installation import installed

pytestmark = [pytest.mark.machine, pytest.mark.model]


def test_a_second_install_changes_nothing_and_a_smaller_one_takes_away() -> None:
    with installed() as here:
        assert here.headrace("systemd", "install", "--dry-run").strip() == ""
        path = "/etc/headrace/headrace.toml"
        config = here.machine.path(path).read_text()
        here.machine.write(path, config[: config.index('[[model]]\nname = "pair"')])
        here.headrace("systemd", "install")
        assert "pair" not in here.machine.systemctl("list-units", "--plain", "--no-legend", "headrace*")
        assert here.pid("headrace-worker@smollm2.0.0.service")
        assert here.machine.show("headrace-crashes.path", "ActiveState")["ActiveState"] == "active"
        here.headrace("systemd", "remove")
        left = here.machine.run("sh", "-c", "ls -d /etc/systemd/system/headrace* 2>/dev/null", check=False).stdout
        assert left == ""
        running = here.machine.systemctl("list-units", "--plain", "--no-legend", "--state=active", "headrace*")
        assert running == ""
        assert here.machine.path(path).exists()
