"""The runbook names every alarm and every exit code, and none that is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from metrics.core.rules.catalogue import ALARMS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "alarms.md").read_text()
KEYS = re.compile(r"[0-9a-zA-Z]")


def test_every_alarm_has_a_section_and_every_section_is_an_alarm() -> None:
    assert set(re.findall(r"^### (\S+)$", PAGE, re.MULTILINE)) == ALARMS.keys()


def test_sections_say_how_bad_it_is_and_for_how_long_it_must_hold() -> None:
    for code, alarm in ALARMS.items():
        section = PAGE.split(f"### {code}\n", 1)[1].split("\n#", 1)[0]
        assert section.startswith(("warn", "crit")), code
        if alarm.raise_s > 3 and code != "memory-low":
            assert f"{alarm.raise_s:.0f} s" in section, code


def test_alarms_say_what_to_do_next_and_its_key() -> None:
    for alarm in ALARMS.values():
        assert all((alarm.means, alarm.advice, alarm.action)), alarm.code
        assert KEYS.fullmatch(alarm.key), alarm.code


def test_every_exit_code_of_the_source_is_in_the_table() -> None:
    """What processes end with (`bus.process`), and what commands return or exit with."""
    codes = {
        node.value.value
        for node in ast.parse((ROOT / "bus" / "process.py").read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and "EXIT_" in ast.unparse(node)
        and isinstance(node.value, ast.Constant)
    }
    assert codes >= {0, 69, 70, 75, 78}
    for path in [*(ROOT / "cli").glob("*.py"), *(ROOT / "admin_tui").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Return | ast.Raise) else ""
            codes |= {int(found) for found in re.findall(r"SystemExit\((\d+)\)", text)}
            if isinstance(node, ast.FunctionDef) and node.returns is not None and ast.unparse(node.returns) == "int":
                codes |= {
                    inner.value.value
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Return)
                    and isinstance(inner.value, ast.Constant)
                    and type(inner.value.value) is int
                    and inner.value.value < 256
                    and path.name in ("main.py", "explain.py", "audit.py", "status.py", "down.py", "up.py", "app.py")
                }
    for code in codes:
        assert re.search(rf"^\| (\S+, )?{code} \|", PAGE, re.MULTILINE), f"exit code {code} is not in docs/alarms.md"
