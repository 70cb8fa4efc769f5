"""Constrained generation: answers fit, unusable grammars are refused, and nothing takes long."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import edgellm
from edgellm.chat.schema import grammar_schema, read_schema
from edgellm.engine.grammar import GrammarCompiler
from edgellm.engine.model import Model
from edgellm.engine.options import Constraint, GenerateOptions
from edgellm.errors import UsageError
from tests.support import cli
from tests.support.tiny_model import write_tiny_model
from tests.support.vocabularies import NAMES, tokenizer

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["cat", "dog", None, 7]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "code", "tags"],
}
HOT: dict[str, Any] = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 200}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with edgellm.load(path, threads=1, parallel=8) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer("llama-bpe"))


def answer(model: Model, **options: Any) -> str:
    generation = model.generate("hello", GenerateOptions(**{**HOT, **options}))
    text = "".join(generation)
    assert generation.finish_reason == "stop"
    return text


@pytest.mark.parametrize("seed", range(8))
def test_answers_are_valid_against_their_schema(model: Model, seed: int) -> None:
    jsonschema.validate(json.loads(answer(model, schema=PERSON, seed=seed)), PERSON)


def test_a_schema_may_be_text_and_its_answers_repeat_with_the_seed(model: Model) -> None:
    first = answer(model, schema=json.dumps(PERSON), seed=3)
    assert first == answer(model, schema=PERSON, seed=3)
    assert first != answer(model, schema=PERSON, seed=4)


def test_answers_do_not_depend_on_what_is_generated_beside_them(model: Model) -> None:
    alone = [answer(model, schema=PERSON, seed=seed) for seed in range(4)]
    beside = [model.generate("hello", GenerateOptions(**HOT, schema=PERSON, seed=seed)) for seed in range(4)]
    assert ["".join(generation) for generation in beside] == alone


def test_a_regular_expression_is_matched_as_a_whole(model: Model) -> None:
    assert re.fullmatch(r"[a-f]{3}-\d+;", answer(model, regex=r"[a-f]{3}-[0-9]{1,4};", seed=1))


@pytest.mark.parametrize(
    "grammar", ['root ::= ("yes" | "no") " "? "!"', 'start: ("yes" | "no") " "? "!"'], ids=["gbnf", "lark"]
)
def test_a_grammar_is_followed_in_either_notation(model: Model, grammar: str) -> None:
    assert re.fullmatch("(yes|no) ?!", answer(model, grammar=grammar, seed=5))


def test_json_gives_an_object(model: Model) -> None:
    end, quote = model.tokenize("}")[0], model.tokenize('"')[0]
    text = answer(model, json=True, seed=1, logit_bias={end: 9.0, quote: 9.0})
    assert isinstance(json.loads(text), dict)


def test_the_end_comes_when_and_only_when_the_grammar_allows(model: Model) -> None:
    eos = model.tokenizer.eos_id
    assert eos is not None
    likely = {"logit_bias": {eos: 100.0}, "temperature": 0.0}
    assert answer(model, regex="abc(de)*", **likely) == "abc"
    assert answer(model, regex="abc(de)*", ignore_eos=True, **likely) == "abc"
    assert answer(model, regex="abcde", ignore_eos=True, temperature=0.0) == "abcde"


def test_max_tokens_and_stop_texts_still_cut_an_answer(model: Model) -> None:
    cut = model.generate("x", GenerateOptions(regex="a{50}", max_tokens=4))
    assert ("".join(cut), cut.finish_reason) == ("aaaa", "length")
    stopped = model.generate("x", GenerateOptions(regex="a{5}bc", stop=("b",)))
    assert ("".join(stopped), stopped.finish_reason) == ("aaaaa", "stop")


def test_a_bias_against_all_that_may_come_ends_only_that_answer(model: Model) -> None:
    token = model.tokenize("a")[0]
    generation = model.generate("x", GenerateOptions(regex="a", logit_bias={token: float("-inf")}))
    with pytest.raises(UsageError, match="No token is allowed"):
        list(generation)
    assert answer(model, regex="a") == "a"


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_is_read_at_once_as_one_by_one(name: str) -> None:
    vocabulary = tokenizer(name)
    begin = time.process_time()
    found = vocabulary.all_token_bytes()
    # 33 ms for 49,152 tokens on the machine this was written on.
    assert time.process_time() - begin < 0.2 * max(1, vocabulary.n_vocab / 49152) * 3
    assert found == [vocabulary.token_bytes(token) for token in range(vocabulary.n_vocab)]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_tokenizer_can_follow_a_grammar(name: str) -> None:
    vocabulary = tokenizer(name)
    matcher = GrammarCompiler(vocabulary).matcher(Constraint("regex", "Grüße, 世界!"))
    found = b""
    for _ in range(40):
        mask = matcher.mask()
        allowed = [i for i in range(vocabulary.n_vocab) if mask[i // 32] >> (i % 32) & 1]
        assert not vocabulary.eog_ids.intersection(allowed)
        token = max(allowed, key=lambda i: len(vocabulary.token_bytes(i)))
        found += vocabulary.token_bytes(token)
        if matcher.accept(token):
            break
    assert found.decode() == "Grüße, 世界!"
    mask = matcher.mask()
    allowed = [i for i in range(vocabulary.n_vocab) if mask[i // 32] >> (i % 32) & 1]
    assert allowed
    assert vocabulary.eog_ids.issuperset(allowed)


BOMBS: dict[str, Constraint] = {
    "parentheses": Constraint("regex", "(" * 60_000 + "a" + ")" * 60_000),
    "lark parentheses": Constraint("grammar", "start: " + "(" * 60_000 + '"a"' + ")" * 60_000),
    "gbnf parentheses": Constraint("grammar", "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000),
    "product": Constraint("regex", "((a{0,10000}){0,10000}){0,10000}"),
    "lark product": Constraint("grammar", 'start: (("a"{0,10000}){0,10000})'),
    "gbnf product": Constraint("grammar", 'root ::= (("a"{0,10000}){0,10000})'),
    "sum": Constraint("regex", "a{9999}" * 11),
    "pattern": Constraint("schema", '{"pattern": "(a{0,10000}){0,10000}"}'),
    "arrays": Constraint(
        "schema", '{"items": {"items": {}, "minItems": 10000}, "minItems": 10000, "type": "array"}'
    ),
    "circular": Constraint("grammar", "start: a\na: b\nb: a"),
    "self": Constraint("schema", '{"$ref": "#"}'),
    "fetch": Constraint("schema", '{"$ref": "http://127.0.0.1:1/schema.json"}'),
    "unsupported": Constraint("schema", '{"not": {"type": "string"}}'),
    "unsatisfiable": Constraint("schema", '{"type": "integer", "minimum": 3, "maximum": 2}'),
    "malformed regex": Constraint("regex", "(a"),
    "malformed lark": Constraint("grammar", "start: ("),
    "malformed gbnf": Constraint("grammar", "root ::= ("),
    "no rule": Constraint("grammar", "root ::= missing"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_cannot_be_used_is_refused_soon(compiler: GrammarCompiler, bomb: str) -> None:
    compiler.matcher(Constraint("regex", "warm"))
    begin = time.process_time()
    with pytest.raises(UsageError, match=r"\.$"):
        compiler.matcher(BOMBS[bomb])
    assert time.process_time() - begin < 2


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schema": "{"}, "not valid JSON"),
        ({"schema": "[" * 100_000}, "nest|valid JSON"),
        ({"schema": "[1]"}, "an object"),
        ({"schema": nested(100)}, "64 levels"),
        ({"schema": nested(30_000)}, "64 levels"),
        ({"schema": {"enum": list(range(9000))}}, "8192 values"),
        ({"schema": {"const": "x" * 200_000}}, "characters long"),
        ({"schema": {"const": object()}}, "JSON values"),
        ({"regex": ""}, "not empty"),
        ({"regex": "a" * 300_000}, "characters long"),
        ({"grammar": 7}, "must be a text"),
        ({"regex": "a", "json": True}, "only one"),
        ({"schema": {}, "grammar": "start: /a/"}, "only one"),
    ],
    ids=range(13),
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GenerateOptions(**options)


@pytest.mark.parametrize(
    "regex", ["(a|ab|b.*c|(x.*y){0,90}){0,90}", "(.*a.{0,30}){20}", "(a{0,300}b?){0,300}"]
)
def test_grammars_within_the_limits_never_take_long_for_one_token(
    compiler: GrammarCompiler, regex: str
) -> None:
    matcher = compiler.matcher(Constraint("regex", regex))
    token = tokenizer("llama-bpe").encode("a", add_special=False)[0]
    slowest = 0.0
    for _ in range(30):
        begin = time.thread_time()
        try:
            matcher.mask()
        except UsageError:
            break
        slowest = max(slowest, time.thread_time() - begin)
        matcher.accept(token)
    assert slowest < 0.5


def test_compiled_grammars_are_kept_and_their_number_is_bounded() -> None:
    compiler = GrammarCompiler(tokenizer("gpt-2"), max_kept=4)
    for i in range(20):
        compiler.matcher(Constraint("regex", f"a{i}"))
    assert compiler.n_kept == 4
    begin = time.process_time()
    for _ in range(20):
        compiler.matcher(Constraint("regex", "a19"))
    assert time.process_time() - begin < 0.1
    assert compiler.n_kept == 4


def test_several_threads_may_compile_at_once() -> None:
    compiler = GrammarCompiler(tokenizer("gpt-2"))
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                constraint = Constraint("regex", f"[a-z]{{{i + 1}}}{number % 2}")
                assert any(compiler.matcher(constraint).mask())
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert compiler.n_kept == 20


def test_objects_are_closed_where_that_changes_nothing_else() -> None:
    def closed(schema: dict[str, Any]) -> bool:
        return grammar_schema(schema).get("additionalProperties") is False

    listed: dict[str, Any] = {"type": "object", "properties": {"a": {}}}
    assert closed(listed)
    assert not closed({"type": "object"})
    assert not closed({**listed, "additionalProperties": True})
    assert not closed({**listed, "required": ["b"]})
    assert not closed({**listed, "allOf": [{"properties": {"b": {}}, "required": ["b"]}]})
    assert not closed({**listed, "anyOf": [{"properties": {"b": {}}}, {}]})
    inner = grammar_schema({"items": listed, "anyOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": listed}})
    assert inner["items"]["additionalProperties"] is False
    assert inner["$defs"]["x"]["additionalProperties"] is False
    assert "x-guidance" not in read_schema("{}")


def test_a_caller_cannot_loosen_how_its_schema_is_read(compiler: GrammarCompiler) -> None:
    loose = '{"not": {}, "x-guidance": {"lenient": true}}'
    with pytest.raises(UsageError, match="Unimplemented"):
        compiler.matcher(Constraint("schema", loose))


def test_the_command_line_constrains_answers(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(PERSON))
    common = ("run", "-m", str(model.path), "hello you", "-t", "1", "-s", "1", "-n", "200")
    found = cli.edgellm(*common, "--schema", str(path))
    jsonschema.validate(json.loads(found.out), PERSON)
    assert cli.edgellm(*common, "--regex", "ab{3}c").out == "abbbc\n"
    grammar = tmp_path / "grammar.gbnf"
    grammar.write_text('root ::= "yes"')
    assert cli.edgellm(*common, "--grammar", str(grammar)).out == "yes\n"
    assert json.loads(cli.edgellm(*common, "--schema", '{"const": 12}').out) == 12
