"""The Python API's small things: keywords, whole answers, loops that are left, messages, representations."""

from __future__ import annotations

import asyncio
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm.engine.option_changes import OptionChanges
from tests.support.checkpoints import write_checkpoint
from tests.support.tiny_model import TEMPLATE, write_tiny_model

HI = [{"role": "user", "content": "hi"}]
# Its prompts end inside a thought; the variable `name` is part of them.
OPEN = TEMPLATE.replace("assistant: ", "assistant {{ name }}: <think>")
TOOL = {
    "name": "add",
    "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edgellm.Model]:
    folder = tmp_path_factory.mktemp("model")
    path = write_tiny_model(folder / "tiny.gguf", template=OPEN, **{"llama.context_length": 1024})
    with edgellm.load(path, threads=1) as loaded:
        yield loaded


def test_the_keywords_are_the_options() -> None:
    fields = {field.name for field in dataclasses.fields(edgellm.GenerateOptions)}
    assert set(typing.get_type_hints(OptionChanges)) == fields - {"stop_until"}


def test_options_are_keywords(model: edgellm.Model) -> None:
    by_keyword = model.chat(HI, max_tokens=3, temperature=0, ignore_eos=True)
    by_options = model.chat(HI, edgellm.GenerateOptions(max_tokens=3, temperature=0, ignore_eos=True))
    assert by_keyword.text == by_options.text
    assert len(by_keyword.ids) == 3
    few: typing.Any = {"max_tokens": 2, "temperature": 0, "ignore_eos": True}
    for options in (edgellm.GenerateOptions(max_tokens=9), None):
        answer = model.generate("a", options, **few)
        assert answer.message.content == answer.text != ""
        assert len(answer.ids) == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_token", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("temp", "temperature"),
        ("tool", "tools"),
    ],
)
def test_unknown_keywords_are_refused(model: edgellm.Model, name: str, meant: str) -> None:
    with pytest.raises(edgellm.UsageError, match=rf"^{name} .* did you mean {meant}\?"):
        model.chat(HI, **{name: 3})  # type: ignore[arg-type]


def test_template_variables_have_an_argument_of_their_own(model: edgellm.Model) -> None:
    with pytest.raises(edgellm.UsageError, match=r'template_variables=\{"name": '):
        model.chat(HI, name="Ann")  # type: ignore[call-arg]
    named = model.chat(HI, max_tokens=1, template_variables={"name": "Ann"})
    assert model.detokenize(named.prompt_ids).endswith("assistant Ann: <think>")


def test_the_text_is_the_whole_answer(model: edgellm.Model) -> None:
    options = edgellm.GenerateOptions(max_tokens=8, temperature=0, ignore_eos=True)
    pieces = list(model.generate("once", options))
    assert model.generate("once", options).text == "".join(pieces)
    assert str(model.generate("once", options)) == "".join(pieces)
    partly = model.generate("once", options)
    assert next(partly) == pieces[0]
    assert partly.text == "".join(pieces)


def test_a_loop_that_is_left_cancels_the_answer(model: edgellm.Model) -> None:
    answer = model.generate("once", max_tokens=500, ignore_eos=True)
    for _ in answer:
        break
    assert answer.finish_reason == "cancelled"
    assert answer.stats is not None
    assert answer.stats.n_generated < 20
    assert answer.text
    assert list(answer) == []


def test_async_for_gives_the_same_pieces(model: edgellm.Model) -> None:
    options = edgellm.GenerateOptions(max_tokens=8, temperature=0, ignore_eos=True)

    async def pieces(prompt: str) -> list[str]:
        return [piece async for piece in model.generate(prompt, options)]

    async def together() -> list[list[str]]:
        return list(await asyncio.gather(pieces("once"), pieces("twice")))

    async def left() -> str | None:
        answer = model.generate("once", max_tokens=500, ignore_eos=True)
        async for _ in answer:
            break
        await asyncio.sleep(0)
        answer.close()
        return answer.finish_reason

    assert asyncio.run(together()) == [list(model.generate(prompt, options)) for prompt in ("once", "twice")]
    assert asyncio.run(left()) == "cancelled"


def test_one_text_has_one_embedding(model: edgellm.Model) -> None:
    one, several = model.embed("hello"), model.embed(["hello", "world"])
    assert one.shape == (model.program.width,)
    assert several.shape == (2, model.program.width)
    assert np.array_equal(several[0], one)


def test_thoughts_are_apart_from_words(model: edgellm.Model) -> None:
    heard: list[str] = []
    answer = model.chat(HI, max_tokens=40, think_budget=5, seed=1, ignore_eos=True, on_thought=heard.append)
    pieces = list(answer)
    assert "think>" not in answer.text
    assert "".join(pieces) == answer.text
    message = answer.message
    assert message.content == answer.text.strip()
    assert message.thoughts == "".join(heard).strip()
    assert message.thoughts
    assert message.as_dict()["reasoning_content"] == message.thoughts


def test_calls_of_tools_are_parsed(model: edgellm.Model) -> None:
    message = model.chat(HI, tools=[TOOL], tool_choice="add", think_budget=0, seed=1).message
    assert isinstance(message, edgellm.Message)
    assert [call.name for call in message.tool_calls] == ["add"] * len(message.tool_calls)
    assert isinstance(message.tool_calls[0], edgellm.ToolCall)
    assert isinstance(message.tool_calls[0].arguments["n"], int)
    call = message.as_dict()["tool_calls"][0]
    assert call["function"] == {"name": "add", "arguments": message.tool_calls[0].arguments}
    after = model.chat(
        [*HI, message.as_dict(), {"role": "tool", "tool_call_id": call["id"], "content": "5"}],
        tools=[TOOL], tool_choice="none", max_tokens=2,
    )  # fmt: skip
    assert after.message.tool_calls == []
    with pytest.raises(edgellm.UsageError, match=r"tool_choice is 'sub'.*add"):
        model.chat(HI, tools=[TOOL], tool_choice="sub")


def test_representations_say_what_a_thing_is(model: edgellm.Model) -> None:
    assert repr(model) == "<edgellm.Model 'Tiny' (llama, context 1024) from tiny.gguf>"
    assert repr(edgellm.GenerateOptions(temperature=0)) == "GenerateOptions(temperature=0)"
    answer = model.generate("once", max_tokens=2, ignore_eos=True)
    assert repr(answer) == "<edgellm.Generation, 0 tokens, unfinished: ''>"
    list(answer)
    assert repr(answer) == f"<edgellm.Generation, 2 tokens, finished: length: {answer.text!r}>"


def test_files_are_converted_and_quantized(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "Tiny-Llama")
    seen: list[tuple[int, int]] = []
    large = edgellm.convert(
        source, tmp_path / "f16.gguf", type="F16", on_progress=lambda done, total: seen.append((done, total))
    )
    small = edgellm.quantize(large.path, tmp_path / "q4.gguf", type="Q8_0", receipt=False)
    assert large.quality is not None
    assert large.quality.top1 > 0.9
    assert small.quality is None
    assert seen[-1][0] == seen[-1][1] > 0
    with edgellm.load(small.path) as model:
        assert model.name == "Tiny Llama"
    with pytest.raises(edgellm.FileError, match="exists already"):
        edgellm.quantize(large.path, small.path)
    with pytest.raises(edgellm.UsageError, match="'Q9'"):
        edgellm.quantize(large.path, tmp_path / "new.gguf", type="Q9")


def test_load_options_are_public(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    with edgellm.Model.load(path, edgellm.LoadOptions(context=64)) as model:
        assert model.n_ctx == 64
    for name in edgellm.__all__:
        assert getattr(edgellm, name) is not None
