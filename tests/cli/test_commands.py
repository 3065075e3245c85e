"""What a person and a program see of the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cli.chat import split_words
from cli.main import app

COMMANDS = (
    "up", "down", "run", "status", "top", "chat", "pull", "models", "drain", "undrain", "restart", "bench",
    "check-config", "curve-keygen", "cancel", "limit", "reload", "ack", "silence", "logs", "audit-log",
    "blackbox", "capacity", "log-level", "report",
)  # fmt: skip


def headrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments], env={**os.environ, **environment}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['headrace', '--help']; from cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'textual', 'numpy', 'zmq', 'httptools', 'cli.up', 'cli.chat'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert command in done.stdout
    assert "Exit codes" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_of_every_command_is_explained(command: str) -> None:
    parameters = app[command].assemble_argument_collection(parse_docstring=True)
    unexplained = [argument.name for argument in parameters if not argument.parameter.help]
    assert not unexplained
    assert app[command].help


def test_wrong_usage_is_exit_code_2() -> None:
    assert headrace("frobnicate").returncode == 2
    assert headrace("up", "--frobnicate").returncode == 2
    assert headrace("restart").returncode == 2


def test_a_bad_configuration_is_exit_code_78_with_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[ingress]\nhttp = "127.0.0.1:8080"\nport = 1\n')
    for command in (["up", "-c", str(path)], ["check-config", "-c", str(path)], ["run", "kv@host", "-c", str(path)]):
        done = headrace(*command)
        assert done.returncode == 78
        assert f"{path}:3: ingress.port: unknown key" in done.stderr
    gone = headrace("check-config", "-c", str(tmp_path / "none.toml"))
    assert gone.returncode == 78
    assert "no such configuration file" in gone.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kv", "ROLE@INSTANCE"),
        ("tui@host", "not a process to run"),
        ("scheduler@nobody", "no model named"),
        ("worker@smollm2.5.0", "from 0"),
        ("worker@smollm2", "MODEL.REPLICA.RANK"),
    ],
)
def test_run_refuses_what_the_configuration_does_not_have(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "h.toml").write_text('[[model]]\nname = "smollm2"\nsource = "catalog:smollm2-135m-instruct"\n')
    done = headrace("run", name, "-c", str(tmp_path / "h.toml"))
    assert done.returncode == 78
    assert said in done.stderr


def test_check_config_prints_a_file_that_can_be_read_again(tmp_path: Path) -> None:
    model = tmp_path / "toy.gguf"
    model.write_bytes(b"GGUF")
    path = tmp_path / "h.toml"
    path.write_text(
        f'[kv]\narena = "64MiB"\n[[model]]\nname = "a"\nsource = "path:{model}"\n'
        '[[model.adapter]]\nname = "b"\nsource = "path:/b"\n[[model.adapter]]\nname = "c"\nsource = "hf:o/c"\n'
    )
    environment = {"HEADRACE_RUN": str(tmp_path), "HEADRACE_MODELS": str(tmp_path)}
    first = headrace("check-config", "-c", str(path), **environment)
    assert first.returncode == 0, first.stderr
    (tmp_path / "again.toml").write_text(first.stdout)
    second = headrace("check-config", "-c", str(tmp_path / "again.toml"), **environment)
    assert second.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]

    told = msgspec.json.decode(headrace("check-config", "-c", str(path), "--json", **environment).stdout)
    assert told["problems"] == []
    assert told["config"]["kv"]["arena"] == "64MiB"


def test_check_config_finds_what_cannot_work_and_warns_of_what_may_not(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = tmp_path / "h.toml"
        path.write_text(
            f'[ingress]\nhttp = "127.0.0.1:{taken.getsockname()[1]}"\nzmq = "tcp://127.0.0.1:5"\n'
            f'[kv]\narena = "100TiB"\n[curve]\nsecret = "{tmp_path}/a.secret"\nclients = "{tmp_path}"\n'
            '[[model]]\nname = "a"\nsource = "catalog:smollm2-135m-instruct"\n'
            '[[model]]\nname = "b"\nsource = "path:/nowhere"\n'
        )
        done = headrace("check-config", "-c", str(path), HEADRACE_RUN=str(tmp_path), HEADRACE_MODELS=str(tmp_path))
    assert done.returncode == 78
    assert "model[0].source: " in done.stderr
    assert "headrace pull smollm2-135m-instruct" in done.stderr
    assert "model[1].source: path:/nowhere" in done.stderr
    assert "a.secret: cannot be read" in done.stderr
    assert "so nobody could connect" in done.stderr
    assert "warning: memory: the arena takes" in done.stderr
    assert "warning: ingress.http: " in done.stderr


def test_a_run_directory_too_long_for_sockets_is_said(tmp_path: Path) -> None:
    run = tmp_path / ("x" * 120)
    done = headrace("check-config", HEADRACE_RUN=str(run), HEADRACE_MODELS=str(tmp_path))
    assert done.returncode == 78
    assert "set HEADRACE_RUN to a shorter directory" in done.stderr


def test_models_lists_catalogue_store_and_what_is_served(tmp_path: Path) -> None:
    (tmp_path / "h.toml").write_text(
        '[[model]]\nname = "a"\nsource = "catalog:smollm2-135m-instruct"\n[[model]]\nname = "b"\nsource = "hf:o/r"\n'
    )
    done = headrace("models", "--json", "-c", str(tmp_path / "h.toml"), HEADRACE_MODELS=str(tmp_path / "m"))
    told = {model["name"]: model for model in msgspec.json.decode(done.stdout)["models"]}
    assert told["smollm2-135m-instruct"]["served_as"] == ["a"]
    assert told["smollm2-135m-instruct"]["present"] is False
    assert told["hf:o/r"]["served_as"] == ["b"]
    assert told["gemma-3-270m"]["unsupported"] == ""
    assert "headrace pull smollm2-135m-instruct" in headrace("models", HEADRACE_MODELS=str(tmp_path / "m")).stdout


def test_pull_of_an_unknown_model_names_those_there_are(tmp_path: Path) -> None:
    done = headrace("pull", "gpt-17", HEADRACE_MODELS=str(tmp_path))
    assert done.returncode == 1
    assert "smollm2-135m-instruct" in done.stderr
    done = headrace("pull", "path:/nowhere", HEADRACE_MODELS=str(tmp_path))
    assert done.returncode == 1
    assert "a path is not fetched" in done.stderr


def test_keys_are_made_once_and_only_their_user_reads_the_secret(tmp_path: Path) -> None:
    assert headrace("curve-keygen", "a", "--directory", str(tmp_path)).returncode == 0
    secret = (tmp_path / "a.secret").read_text()
    assert (tmp_path / "a.secret").stat().st_mode & 0o777 == 0o600
    assert "secret" not in (tmp_path / "a.public").read_text()
    again = headrace("curve-keygen", "a", "--directory", str(tmp_path))
    assert again.returncode == 1
    assert "never overwritten" in again.stderr
    assert (tmp_path / "a.secret").read_text() == secret


def test_commands_without_a_stack_say_so(tmp_path: Path) -> None:
    environment = {"HEADRACE_RUN": str(tmp_path)}
    status = headrace("status", "--json", **environment)
    assert status.returncode == 1
    assert msgspec.json.decode(status.stdout) == {"processes": [], "models": []}
    assert "headrace up" in headrace("status", **environment).stderr
    assert "does not run here" in headrace("drain", "kv@host", **environment).stderr
    assert "systemctl start headrace.target" in headrace("restart", "kv@host", **environment).stderr


def test_a_closed_pipe_is_no_failure(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cli.main models | true", shell=True, capture_output=True, text=True, timeout=60,
        env={**os.environ, "HEADRACE_MODELS": str(tmp_path)},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_the_first_word_of_a_chat_is_a_model_only_where_one_is_called_so() -> None:
    served = ["small", "large"]
    assert split_words([], served, None) == ("small", "")
    assert split_words(["large"], served, None) == ("large", "")
    assert split_words(["large", "hello", "there"], served, None) == ("large", "hello there")
    assert split_words(["why?"], served, None) == ("small", "why?")
    assert split_words(["small", "talk"], served, "large") == ("large", "small talk")
    assert split_words(["hello"], [], None) == (None, "hello")


def test_recording_of_content_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[blackbox]\ncontent = true\n")
    environment = {"HEADRACE_RUN": str(tmp_path)}
    assert "warning: blackbox.content" in headrace("check-config", "-c", str(tmp_path / "c.toml"), **environment).stderr
    (tmp_path / "c.toml").write_text('[blackbox]\ncontent = true\nsize = "0"\n')
    assert "blackbox.content" not in headrace("check-config", "-c", str(tmp_path / "c.toml"), **environment).stderr
