"""Budgets of thoughts on a model of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import edgellm
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.engine.thoughts import ThoughtBudget
from edgellm.errors import UsageError
from tests.support.tiny_model import TEMPLATE, write_tiny_model

# Its prompts end inside a thought, unless thinking is switched off.
OPEN = TEMPLATE.replace(
    "assistant: ", "assistant: {{ '</think>' if enable_thinking is false else '<think>' }}"
)
# It shows the thoughts of earlier turns; its prompts end before a thought.
MAY = (
    "{% for m in messages %}{{ m.role }}: {% if m.reasoning_content %}<think>{{ m.reasoning_content }}"
    "</think>{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CLOSE = "\n</think>\n\n"
HI = [{"role": "user", "content": "hi"}]


def load(folder: Path, template: str, **options: Any) -> Model:
    path = write_tiny_model(folder / "tiny.gguf", template=template, **{"llama.context_length": 1024})
    return edgellm.load(path, threads=1, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(tmp_path_factory.mktemp("open"), OPEN, parallel=4) as loaded:
        yield loaded


def options(**more: Any) -> GenerateOptions:
    given: dict[str, Any] = {"max_tokens": 60, "seed": 3, "temperature": 1.0, "ignore_eos": True}
    return GenerateOptions(**(given | more))


def answer(model: Model, **more: Any) -> str:
    with model.chat(HI, options(**more)) as generation:
        assert "".join(generation) == generation.text
        return generation.text


@pytest.mark.parametrize("budget", [0, 1, 7, 30])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_spent_budget_ends_the_thought(model: Model, budget: int, temperature: float) -> None:
    with model.chat(HI, options(think_budget=budget, temperature=temperature)) as generation:
        text = "".join(generation)
    close = model.tokenize(CLOSE)
    assert generation.ids[budget : budget + len(close)] == close
    assert "</think>" not in text
    assert len(generation.ids) == 60


def test_tokens_before_the_end_are_those_without_a_budget(model: Model) -> None:
    with model.chat(HI, options(think_budget=20)) as limited, model.chat(HI, options()) as free:
        list(limited), list(free)
    assert limited.ids[:20] == free.ids[:20]
    assert limited.ids != free.ids


def test_a_budget_that_is_not_spent_changes_nothing(model: Model) -> None:
    assert answer(model, think_budget=1000) == answer(model)


def test_no_thought_no_budget(model: Model) -> None:
    with model.chat(HI, options(think_budget=0), think="off") as limited:
        list(limited)
    with model.chat(HI, options(), think=False) as free:
        list(free)
    assert limited.ids == free.ids


def test_batches_give_the_answers_of_single_requests(model: Model) -> None:
    budgets = [0, 3, 9, 25]
    alone = [answer(model, think_budget=budget) for budget in budgets]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda budget: answer(model, think_budget=budget), budgets)) == alone


def test_drafts_do_not_change_an_answer(tmp_path: Path) -> None:
    with load(tmp_path, OPEN, draft_max=7) as drafting:
        drafted = answer(drafting, think_budget=15, temperature=0.0, max_tokens=200)
    with load(tmp_path, OPEN, draft_max=0) as plain:
        assert answer(plain, think_budget=15, temperature=0.0, max_tokens=200) == drafted


def test_levels_that_a_template_cannot_honour_are_refused(model: Model) -> None:
    with pytest.raises(UsageError, match=r"'loud'.*takes on, off"):
        model.chat(HI, think="loud")


def feed(model: Model, text: str, n_tokens: int) -> str:
    """The text as far as the budget lets it, then what the budget forces."""
    prompt = model.template.encode(HI)
    budget = ThoughtBudget(model.tokenizer, model.template.syntax(), prompt, n_tokens)
    taken: list[int] = []
    for token in model.tokenize(text):
        while (mask := budget.mask(None)) is not None:
            (forced,) = [32 * n + bit for n, word in enumerate(mask) for bit in range(32) if word >> bit & 1]
            taken.append(forced)
            budget.accept(forced)
        taken.append(token)
        budget.accept(token)
    return model.detokenize(taken)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>xyz</think>words", "<think>xyz</think>words"),
        (" <think>wxyz and", " <think>wxyz</think> and"),
        ("words <think>wxyzwxyz", "words <think>wxyzwxyz"),
        # A second thought draws on what is left of the budget.
        ("<think>wxyz and<think>!", "<think>wxyz</think> and<think>!"),
        ("<think>wxyz<think>!", "<think>wxyz</think><think></think>!"),
        ("<th", "<th"),
    ],
)
def test_thoughts_that_the_answer_itself_begins(tmp_path: Path, text: str, expected: str) -> None:
    with load(tmp_path, MAY) as model:
        assert model.template.syntax().think_close == "</think>"
        assert feed(model, text, 4 if "</think>" not in text else 100) == expected


def test_a_grammar_after_the_thought_holds(model: Model) -> None:
    from edgellm.chat.call_grammar import thought_grammar

    grammar = thought_grammar({"enum": ["yes"]}, {}, "open", model.template.syntax())
    text = answer(model, think_budget=5, grammar=grammar)
    assert text.endswith('</think>\n\n"yes"')
