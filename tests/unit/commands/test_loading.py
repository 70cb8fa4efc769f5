"""System prompt of a model: the given one, the catalog's, or none."""

from __future__ import annotations

from pathlib import Path

from edgellm.cli import load_command, make_parser
from edgellm.commands.loading import system_prompt
from edgellm.commands.settings import Settings, resolve
from edgellm.store.catalog import known_models, stored_path


def settings(*arguments: str) -> Settings:
    command = load_command("run")
    parsed = make_parser("run", command).parse_args(arguments)
    return resolve("run", command, parsed, {}, Path("/nonexistent"))


def test_given_instructions_come_first_even_empty_ones() -> None:
    for model in known_models():
        assert system_prompt(stored_path(model), settings("--system", "Be brief.")) == "Be brief."
        assert system_prompt(stored_path(model), settings("--system", "")) == ""


def test_a_known_model_has_the_catalogs_instructions_and_another_none() -> None:
    known = {model.name: system_prompt(stored_path(model), settings()) for model in known_models()}
    assert known["smollm2-135m-instruct"] == ""
    assert known["gemma-3-270m"] is None
    assert system_prompt(Path("elsewhere.gguf"), settings()) is None
