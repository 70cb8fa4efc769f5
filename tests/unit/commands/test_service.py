"""The systemd unit: its command, its user, and systemd's own check of it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.cli import load_command, make_parser
from edgellm.commands.service import ENVIRONMENT, quoted, unit
from edgellm.commands.settings import Settings, resolve
from edgellm.errors import UsageError

COMMAND = load_command("serve")


def settings(*arguments: str, **environment: str) -> Settings:
    return resolve("serve", COMMAND, make_parser("serve", COMMAND).parse_args(arguments), environment)


@pytest.fixture(autouse=True)
def installed_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move the interpreter and the package outside of homes, wherever the tests run."""
    monkeypatch.setattr(sys, "executable", "/opt/edgellm/bin/python")
    monkeypatch.setattr("edgellm.commands.service.__file__", "/opt/edgellm/lib/service.py")


def values(text: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def command_line(text: str) -> list[str]:
    """Command that systemd would run: its quoting is a shell's as far as it is used, except for % and $."""
    (line,) = values(text, "ExecStart")
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


def test_it_runs_this_interpreter_with_what_was_set_anywhere() -> None:
    given = settings(
        "-c", "2048", "--no-log-json", "--allowed-host", "a", "--allowed-host", "b", EDGELLM_PORT="99"
    )
    text = unit(COMMAND, given, [Path("/srv/m one.gguf"), Path("relative")])
    start = [
        "/opt/edgellm/bin/python",
        "-m",
        "edgellm",
        "serve",
        "/srv/m one.gguf",
        str(Path.cwd() / "relative"),
    ]
    assert command_line(text)[:6] == start
    assert set(command_line(text)[6:]) == {
        *("--context=2048", "--no-log-json", "--allowed-host=a", "--allowed-host=b", "--port=99"),
    }


def test_its_command_line_means_the_same_settings() -> None:
    given = settings("--idle-unload", "90s", "--max-memory", "2G", "-np", "3", "--log-json", "--host", "::1")
    forever = settings("--idle-unload", "-1")
    assert "--idle-unload=-1" in command_line(unit(COMMAND, forever, []))
    flags = [word for word in command_line(unit(COMMAND, given, [])) if word.startswith("--")]
    assert settings(*flags).values == given.values


@pytest.mark.parametrize(
    "text", ["a b", 'say "x"', "100%", "$HOME", "back\\slash", "tab\t", "", "it's", "a;b"]
)
def test_quoting(text: str) -> None:
    words = shlex.split(quoted(text).replace("%%", "%").replace("$$", "$"))
    assert words == [text]


def test_keys_are_not_in_it() -> None:
    text = unit(COMMAND, settings("--api-key", "secret"), [])
    assert "secret" not in text
    assert values(text, "EnvironmentFile") == [ENVIRONMENT]
    assert values(unit(COMMAND, settings(), []), "EnvironmentFile") == [f"-{ENVIRONMENT}"]
    assert values(unit(COMMAND, settings("--host", "0.0.0.0"), []), "EnvironmentFile") == [ENVIRONMENT]
    with pytest.raises(UsageError, match="one API key"):
        unit(COMMAND, settings("--api-key", "a", "--api-key", "b"), [])


def test_only_a_server_for_this_machine_is_kept_from_the_network() -> None:
    assert values(unit(COMMAND, settings(), []), "IPAddressDeny") == ["any"]
    assert values(unit(COMMAND, settings("--host", "0.0.0.0"), []), "IPAddressDeny") == []


def test_memory_is_bounded_by_what_was_asked_for() -> None:
    assert values(unit(COMMAND, settings(), []), "MemoryMax") == ["90%"]
    assert values(unit(COMMAND, settings("--max-memory", "1G"), []), "MemoryMax") == [
        str(10**9 + (512 << 20))
    ]


def test_it_runs_as_nobody_unless_it_needs_a_home() -> None:
    text = unit(COMMAND, settings(), [Path("/srv/a.gguf")], user="pi")
    assert values(text, "DynamicUser") == ["yes"]
    text = unit(COMMAND, settings(), [Path("/home/pi/a.gguf")], user="pi")
    assert (values(text, "DynamicUser"), values(text, "User")) == ([], ["pi"])
    with pytest.raises(UsageError, match="elsewhere"):
        unit(COMMAND, settings(), [Path("/root/a.gguf")], user="root")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize(
    "arguments", [(), ("--host", "0.0.0.0", "--max-memory", "1G", "--cache-dir", "/var/cache/edgellm")]
)
def test_systemd_finds_nothing_wrong(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    text = unit(COMMAND, settings(*arguments), [Path("/srv/a b.gguf")])
    # It checks that the program is there.
    file = tmp_path / "edgellm.service"
    file.write_text(text.replace("/opt/edgellm/bin/python", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if "edgellm" in line] == []
    assert done.returncode == 0


def test_it_may_write_to_its_conversations() -> None:
    text = unit(COMMAND, settings("--keep-chats", "/var/lib/edgellm"), [Path("/srv/a.gguf")], user="pi")
    assert values(text, "StateDirectory") == ["edgellm"]
    assert "--keep-chats=/var/lib/edgellm" in command_line(text)
    with pytest.raises(UsageError, match=r"--keep-chats is /srv/chats.*/var/lib/edgellm"):
        unit(COMMAND, settings("--keep-chats", "/srv/chats"), [Path("/srv/a.gguf")], user="pi")


def test_it_may_write_to_its_cache_and_nowhere_else() -> None:
    assert "ReadWritePaths" not in unit(COMMAND, settings(), [])
    text = unit(COMMAND, settings("--cache-dir", "/var/cache/edgellm"), [Path("/srv/a.gguf")], user="pi")
    assert values(text, "CacheDirectory") == ["edgellm"]
    assert "--cache-dir=/var/cache/edgellm" in command_line(text)
    text = unit(COMMAND, settings("--cache-dir", "/home/pi/a b"), [Path("/home/pi/a.gguf")], user="pi")
    assert values(text, "ReadWritePaths") == ['"/home/pi/a b"']
    with pytest.raises(UsageError, match="/var/cache/edgellm"):
        unit(COMMAND, settings("--cache-dir", "/srv/cache"), [Path("/srv/a.gguf")], user="pi")


def test_a_draft_model_is_a_file_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("draft.gguf").touch()
    assert f"--draft={tmp_path / 'draft.gguf'}" in command_line(
        unit(COMMAND, settings("--draft", "draft.gguf"), [], user="pi")
    )
    assert "--draft=gemma-3-270m" in command_line(unit(COMMAND, settings("--draft", "gemma-3-270m"), []))


def test_adapters_are_named_absolutely() -> None:
    text = unit(COMMAND, settings("--lora", "a b.gguf=0.5", "--lora", "/home/pi/c.gguf"), [], user="pi")
    (line,) = values(text, "ExecStart")
    assert f'"--lora={Path.cwd() / "a b.gguf"}=0.5" --lora=/home/pi/c.gguf=1' in line
    assert values(text, "User") == ["pi"]
