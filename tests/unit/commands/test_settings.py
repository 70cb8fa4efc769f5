"""Order of settings: flag, environment, configuration file, the model's own; invalid values are refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from edgellm.cli import COMMANDS, load_command, main, make_parser
from edgellm.commands.options import BIAS, BYTES, FLOAT, INT, SWITCH, Kind, bias_table
from edgellm.commands.settings import Settings, resolve
from edgellm.errors import UsageError
from tests.support.tiny_model import write_tiny_model


def settings(
    *arguments: str, environment: dict[str, str] | None = None, config: Path | None = None, name: str = "run"
) -> Settings:
    command = load_command(name)
    parsed: argparse.Namespace = make_parser(name, command).parse_args(arguments)
    return resolve(name, command, parsed, environment or {}, config or Path("/nonexistent"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(
        "temperature = 0.1\ntop_k = 1\nseed = 1\njson = true\n[run]\ntop_k = 2\n[chat]\ntop_k = 3\n"
    )
    return path


def test_precedence(config: Path) -> None:
    found = settings(
        "--temp", "0.3", environment={"EDGELLM_TEMPERATURE": "0.2", "EDGELLM_SEED": "2"}, config=config
    )
    assert (found["temperature"], found.origins["temperature"]) == (0.3, "flag --temperature")
    assert (found["seed"], found.origins["seed"]) == (2, "EDGELLM_SEED")
    assert (found["top_k"], found.origins["top_k"]) == (2, str(config))
    assert (found["top_p"], found.origins["top_p"]) == (None, "default")
    assert settings(config=config, name="chat")["top_k"] == 3


@pytest.mark.parametrize("flag", ["-n", "--predict", "--max-tokens"])
def test_flags_have_the_spellings_people_know(flag: str) -> None:
    assert settings(flag, "5")["max_tokens"] == 5


def test_negative_values_and_repeated_options() -> None:
    found = settings("-n", "-1", "--stop", "a", "--stop", "b", "-l", "2-1.5", "--logit-bias", "3=-inf")
    assert found["max_tokens"] == -1
    assert found["stop"] == ["a", "b"]
    assert bias_table(found["logit_bias"]) == {2: -1.5, 3: float("-inf")}


def test_repeated_options_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('stop = ["a", "b"]\nlogit_bias = ["2+1"]\n')
    assert settings(config=path)["stop"] == ["a", "b"]
    assert settings(config=path)["logit_bias"] == [(2, 1.0)]
    assert settings(environment={"EDGELLM_STOP": "x"})["stop"] == ["x"]


def test_a_switch_can_be_switched_off_again() -> None:
    assert settings("--no-offline", environment={"EDGELLM_OFFLINE": "1"})["offline"] is False
    assert settings(environment={"EDGELLM_OFFLINE": "yes"})["offline"] is True


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "EDGELLM_OFFLINE"])
def test_nothing_switches_the_network_on_again(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    assert settings("--no-offline")["offline"] is True


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"EDGELLM_TOP_K": "x"}, "EDGELLM_TOP_K: 'x' is not a whole number"),
        ({"EDGELLM_TEMPERATURE": "nan"}, "EDGELLM_TEMPERATURE: nan"),
        ({"EDGELLM_KV_TYPE": "q3"}, "--kv-type is 'q3', expected one of auto, f16, f32, i16, q8_0"),
        ({"EDGELLM_OFFLINE": "maybe"}, "neither true nor false"),
    ],
)
def test_variables_that_cannot_be_used(environment: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        settings(environment=environment)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("temprature = 1", r"temprature is not an option; did you mean temperature\?"),
        ("zzz = 1", "zzz is not an option; the options are"),
        ("[run]\nzzz = 1", r"run\.zzz is not an option"),
        ("top_k = 'x'", "top_k: 'x' is not a whole number"),
        ("top_k = true", "top_k: True is not a whole number"),
        ("raw = 1\n", "raw: 1 is not true or false"),
        ("top_k = ", "not a TOML file"),
        ("stop = [1]", "stop: 1 is not a text"),
    ],
)
def test_configuration_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        settings(config=path)


def test_a_named_configuration_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_CONFIG", "/nonexistent")
    with pytest.raises(UsageError, match="EDGELLM_CONFIG names it"):
        settings()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (INT, "0x10", 16),
        (FLOAT, "1e-3", 0.001),
        (SWITCH, "off", False),
        (BYTES, "900M", 900_000_000),
        (BYTES, "2GB", 2_000_000_000),
        (BYTES, "2GiB", 2 << 30),
        (BYTES, "1.5k", 1500),
        (BYTES, "1048576", 1 << 20),
        (BIAS, "5+2", (5, 2.0)),
        (BIAS, "5=-1e1", (5, -10.0)),
    ],
)
def test_values(kind: Kind, text: str, value: Any) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [(INT, "1.5"), (FLOAT, "x"), (BYTES, "many"), (BYTES, ""), (BIAS, "5"), (BIAS, "+1"), (BIAS, "a+1")],
)
def test_values_that_are_none(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|form TOKEN"):
        kind.parse(text)


def test_print_config_says_what_counts_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, config: Path
) -> None:
    monkeypatch.setenv("EDGELLM_CONFIG", str(config))
    monkeypatch.setenv("EDGELLM_SEED", "7")
    model = write_tiny_model(tmp_path / "tiny.gguf", **{"general.sampling.min_p": 0.25})
    assert main(["run", "-m", str(model), "--temp", "0.5", "--print-config"]) == 0
    lines = {line.split(" = ")[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert "0.5" in lines["temperature"]
    assert "# flag --temperature" in lines["temperature"]
    assert "# EDGELLM_SEED" in lines["seed"]
    assert str(config) in lines["top_k"]
    assert "0.25" in lines["min_p"]
    assert "metadata of tiny.gguf" in lines["min_p"]
    assert "256" in lines["context"]
    assert lines["top_p"].endswith("# default")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = load_command(name)
    with pytest.raises(SystemExit) as leaving:
        main([name, "--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert command.examples
    assert all(line in text for line, _ in command.examples)
    assert all(option.flags[0] in text for option in command.options)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_two_options_of_a_command_share_a_flag(name: str) -> None:
    flags = [flag for option in load_command(name).options for flag in option.flags]
    assert len(flags) == len(set(flags))
