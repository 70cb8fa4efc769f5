"""Every tokenizer.json that the `tokenizers` library reads gives its ids, after a conversion as before it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgellm.errors import EdgeLLMError, FileError, FormatError, ModelError, UnsupportedError
from edgellm.tokenizer import Tokenizer
from tests.support.checkpoints import tokenizer_json
from tests.support.tokenizer_files import (
    SPACE,
    added,
    differences,
    metadata_of,
    sentencepiece_json,
    sentencepiece_model,
    trained_json,
    unigram_json,
    write_tokenizer,
)

pytest.importorskip("edgellm._native", reason="needs the built extension module")

REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, REPLACE]}
STRIP = {"type": "Strip", "strip_left": True, "strip_right": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACED = BYTE_LEVEL | {"add_prefix_space": True}
DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
PIPELINE = "edgellm.tokenizer.pipeline"


def metaspace(scheme: str, split: bool = False) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def split(pattern: dict[str, str], behavior: str, invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(*steps: dict[str, Any], of: str = "pretokenizers") -> dict[str, Any]:
    return {"type": "Sequence", of: list(steps)}


SPM: dict[str, tuple[Any, Any, bool]] = {  # normalizer, pre-tokenizer, True: GGUF says it
    "first": (None, metaspace("first"), True),
    "always": (None, metaspace("always"), True),
    "never": (None, metaspace("never"), True),
    "prepend": (PREPEND, None, True),
    "replace": (REPLACE, None, True),
    "Gemma": (REPLACE, split({"String": " "}, "MergedWithPrevious"), True),
    "split": (None, metaspace("first", split=True), False),
    "lowercase": ({"type": "Lowercase"}, metaspace("first"), False),
    "NFKC": (sequence({"type": "NFKC"}, REPLACE, of="normalizers"), None, False),
    "strip": (sequence(STRIP, REPLACE, of="normalizers"), metaspace("always"), False),
    "digits": (None, sequence({"type": "Digits", "individual_digits": True}, metaspace("first")), False),
}  # fmt: skip


@pytest.mark.parametrize("name", SPM)
def test_sentencepiece_as_transformers_saves_it(name: str, tmp_path: Path) -> None:
    normalizer, pre_tokenizer, in_gguf = SPM[name]
    source = sentencepiece_json(normalizer=normalizer, pre_tokenizer=pre_tokenizer)
    metadata = metadata_of(write_tokenizer(tmp_path, source))
    assert not differences(metadata, source)
    if in_gguf:
        assert (metadata["tokenizer.ggml.model"], PIPELINE in metadata) == ("llama", False)


@pytest.mark.parametrize("name", ["first", "always", "never", "prepend"])
def test_both_files_agree(name: str, tmp_path: Path) -> None:
    normalizer, pre_tokenizer, _ = SPM[name]
    source = sentencepiece_json(normalizer=normalizer, pre_tokenizer=pre_tokenizer)
    (write_tokenizer(tmp_path, source) / "tokenizer.model").write_bytes(sentencepiece_model())
    metadata = metadata_of(tmp_path)
    assert metadata["tokenizer.ggml.scores"][300] < 0
    assert not differences(metadata, source)


def test_the_model_file_alone(tmp_path: Path) -> None:
    import sentencepiece

    (write_tokenizer(tmp_path, None) / "tokenizer.model").write_bytes(sentencepiece_model())
    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    for legacy in (None, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "legacy": legacy}))
        subject = Tokenizer.from_metadata(metadata_of(tmp_path))
        assert subject.encode("Hello the") == [1, *library.encode("Hello the")]
        later = subject.encode("<s>the", add_special=False, parse_special=True)
        assert (later == [1, *library.encode("the")]) == (legacy is None)


def test_merges_that_no_scores_express(tmp_path: Path) -> None:
    source = sentencepiece_json(pre_tokenizer=metaspace("first"))
    merges = source["model"]["merges"]
    # Half of the pairs of a token, and tokens whose pairs are apart.
    source["model"]["merges"] = merges[::2] + merges[1::4]
    metadata = metadata_of(write_tokenizer(tmp_path, source))
    assert PIPELINE in metadata
    assert not differences(metadata, source)


PRE_TOKENIZERS: dict[str, Any] = {
    "none": None,
    "ByteLevel with a space": SPACED,
    "ByteLevel with a space, later": sequence({"type": "Digits", "individual_digits": False}, SPACED),
    "ByteLevel": BYTE_LEVEL,
    "Whitespace": {"type": "Whitespace"},
    "WhitespaceSplit": {"type": "WhitespaceSplit"},
    "BertPreTokenizer": {"type": "BertPreTokenizer"},
    "CharDelimiterSplit": {"type": "CharDelimiterSplit", "delimiter": " "},
    "Punctuation removed": sequence({"type": "Punctuation", "behavior": "Removed"}, BYTE_LEVEL),
    "Punctuation contiguous": sequence({"type": "Punctuation", "behavior": "Contiguous"}, BYTE_LEVEL),
    "Digits": sequence({"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
    "UnicodeScripts": sequence({"type": "UnicodeScripts"}, BYTE_LEVEL),
    "FixedLength": sequence({"type": "FixedLength", "length": 4}, BYTE_LEVEL),
    "Metaspace": metaspace("always", split=True),
    **{
        f"Split {behavior} {invert}": sequence(
            split({"Regex": r"\s|\d+"}, behavior, invert), BYTE_LEVEL | {"use_regex": False}
        )
        for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
        for invert in (False, True)
    },
}  # fmt: skip
NORMALIZERS: dict[str, Any] = {
    **{kind: {"type": kind} for kind in ("NFC", "NFKD", "Lowercase", "StripAccents", "Nmt")},
    "NFD, StripAccents": sequence({"type": "NFD"}, {"type": "StripAccents"}, of="normalizers"),
    "Strip": {"type": "Strip", "strip_left": True, "strip_right": True},
    "Replace": {"type": "Replace", "pattern": {"Regex": r"\d"}, "content": "0"},
    "Prepend": {"type": "Prepend", "prepend": "x"},
    "BertNormalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "ByteLevel": {"type": "ByteLevel"},
}


IN_GGUF = ("ByteLevel", "ByteLevel with a space", "Digits", "Split Isolated False", "Split Isolated True")


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
@pytest.mark.parametrize("all_bytes", [False, True])
def test_every_pre_tokenizer(name: str, all_bytes: bool, tmp_path: Path) -> None:
    source = trained_json("BPE", None, PRE_TOKENIZERS[name], all_bytes=all_bytes)
    metadata = metadata_of(write_tokenizer(tmp_path, source))
    assert not all_bytes or (name in IN_GGUF) <= (PIPELINE not in metadata)
    assert not differences(metadata, source)


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("kind", ["BPE", "WordPiece"])
def test_every_normalizer(name: str, kind: str, tmp_path: Path) -> None:
    cut = {"type": "Whitespace"} if kind == "WordPiece" else BYTE_LEVEL
    source = trained_json(kind, NORMALIZERS[name], None if name == "ByteLevel" else cut)
    metadata = metadata_of(write_tokenizer(tmp_path, source))
    assert not differences(metadata, source)


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("squeezes", [False, True])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_unigram(scheme: str, squeezes: bool, byte_fallback: bool, tmp_path: Path) -> None:
    squeeze = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    source = unigram_json(normalizer=squeeze if squeezes else None, pre_tokenizer=metaspace(scheme))
    source["model"]["byte_fallback"] = byte_fallback
    metadata = metadata_of(write_tokenizer(tmp_path, source))
    assert not differences(metadata, source)


def test_pipeline_tokens_are_bytes_of_the_text(tmp_path: Path) -> None:
    cut = sequence(
        {"type": "Digits", "individual_digits": True}, {"type": "FixedLength", "length": 3}, BYTE_LEVEL
    )
    subject = Tokenizer.from_metadata(metadata_of(write_tokenizer(tmp_path, trained_json("BPE", None, cut))))
    text = "Hello  wörld 123"
    assert subject.decode(subject.encode(text)) == text
    assert [subject.token_bytes(i) for i in range(subject.n_vocab)] == subject.all_token_bytes()
    control = subject.token_id("[INST]")
    assert control in subject.encode("[INST]", parse_special=True)
    assert control not in subject.encode("[INST]")


def test_end_of_word_suffix(tmp_path: Path) -> None:
    source = trained_json("BPE", None, {"type": "WhitespaceSplit"})
    vocab = source["model"]["vocab"]
    source["model"]["end_of_word_suffix"] = "</w>"
    for text in ("e</w>", "the</w>"):
        vocab[text] = len(vocab)
    source["model"]["merges"] = [["t", "h"], ["th", "e</w>"]]
    vocab.setdefault("th", len(vocab))
    metadata = metadata_of(write_tokenizer(tmp_path, source))
    assert not differences(metadata, source)
    assert Tokenizer.from_metadata(metadata).token_bytes(vocab["the</w>"]) == b"the "


@pytest.mark.parametrize("rule", ["lstrip", "rstrip", "single_word"])
@pytest.mark.parametrize("cut", [BYTE_LEVEL, {"type": "Whitespace"}], ids=["native", "pipeline"])
def test_matching_rules_of_special_tokens(rule: str, cut: dict[str, Any], tmp_path: Path) -> None:
    source = trained_json("BPE", None, cut)
    source["added_tokens"][3][rule] = True
    metadata = metadata_of(write_tokenizer(tmp_path, source))
    texts = [
        "a[INST]b",
        "a [INST] b",
        "a  [INST]",
        "[INST]",
        "[INST]_",
        ".[INST].",
        "é[INST]",
        "a[INST] [INST]b",
    ]
    assert not differences(metadata, source, texts)


def test_tokens_past_the_embedding_are_left_out(tmp_path: Path) -> None:
    source = tokenizer_json()
    source["added_tokens"] += [added(300, "<image>"), added(10**6, "<video>")]
    settings = {"added_tokens_decoder": {"300": {"content": "<image>"}}, "eos_token": "</s>"}
    metadata = metadata_of(write_tokenizer(tmp_path, source, settings), 300)
    assert "<image>" not in metadata["tokenizer.ggml.tokens"]
    source["model"]["vocab"]["more"] = 300
    with pytest.raises(FormatError, match=r"'more' with id 300, expected one below 300"):
        metadata_of(write_tokenizer(tmp_path, source), 300)


def test_fillers_have_names_of_their_own(tmp_path: Path) -> None:
    source = tokenizer_json()
    n = len(source["model"]["vocab"])
    source["model"]["vocab"][f"[PAD{n + 5}]"] = n
    metadata = metadata_of(write_tokenizer(tmp_path, source), n + 9)
    assert metadata["tokenizer.ggml.tokens"][n:] == [
        f"[PAD{n + 5}]", *(f"[PAD{n + i}]" for i in range(1, 5)), f"[PAD{n + 5}_]",
        *(f"[PAD{n + i}]" for i in range(6, 9)),
    ]  # fmt: skip


def around(before: tuple[str, ...], after: tuple[str, ...], source: dict[str, Any]) -> dict[str, Any]:
    """The source with a post-processor that puts these tokens around a text."""
    ids = {entry["content"]: entry["id"] for entry in source["added_tokens"]}
    for text in (*before, *after):
        if text not in ids:
            ids[text] = 700 + len(ids)
            source["added_tokens"].append(added(ids[text], text))

    def piece(text: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": 0}}

    body = {"Sequence": {"id": "A", "type_id": 0}}
    used = {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in (*before, *after)}
    template: dict[str, Any] = {
        "type": "TemplateProcessing",
        "single": [*map(piece, before), body, *map(piece, after)],
    }
    template |= {"pair": [body, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": used}
    return source | {"post_processor": template}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("<s>",), ()),
        (("<s>",), ("</s>",)),
        (("[gMASK]", "<sop>"), ()),
        ((), ("<|pad|>",)),
        (("<s>", "[CLS]"), ("</s>", "[SEP]")),
        ((), ()),
        (("<s>", "<s>"), ()),
    ],
)
@pytest.mark.parametrize("kind", ["byte level", "Metaspace", "pipeline"])
def test_tokens_around_a_text(
    before: tuple[str, ...], after: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    source = {
        "byte level": lambda: tokenizer_json(),
        "Metaspace": lambda: sentencepiece_json(pre_tokenizer=metaspace("first")),
        "pipeline": lambda: trained_json("BPE", None, {"type": "Whitespace"}),
    }[kind]()
    source = around(before, after, source)
    subject = Tokenizer.from_metadata(metadata_of(write_tokenizer(tmp_path, source)))
    from tokenizers import Tokenizer as Library

    library = Library.from_str(json.dumps(source))
    for text in ("hi", ""):
        assert subject.encode(text) == library.encode(text).ids
    assert subject.adds_bos == (before[:1] == ("<s>",))


@pytest.mark.parametrize("add_bos", [None, False, True])
@pytest.mark.parametrize("add_eos", [None, False, True])
@pytest.mark.parametrize("processed", [False, True])
def test_flags_count_more_than_the_post_processor(
    add_bos: bool | None, add_eos: bool | None, processed: bool, tmp_path: Path
) -> None:
    source = sentencepiece_json(pre_tokenizer=metaspace("first"))
    source = around(("<s>",), ("</s>",), source) if processed else source
    flags = {"add_bos_token": add_bos, "add_eos_token": add_eos, "bos_token": "<s>", "eos_token": "</s>"}
    write_tokenizer(tmp_path, source, flags)
    for both in (False, True):
        if both:
            (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
        ids = Tokenizer.from_metadata(metadata_of(tmp_path)).encode("hi")
        assert (ids[0] == 1) == (processed if add_bos is None else add_bos)
        assert (ids[-1] == 2) == (processed if add_eos is None else add_eos)


@pytest.mark.parametrize(
    "content",
    [
        b"IQ== 0\nIg== 1\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        b"",
        b"\x00" * 64,
        b"PK\x03",
    ],
    ids=["tiktoken", "LFS pointer", "empty", "zeros", "zip"],
)
def test_another_file_named_tokenizer_model(content: bytes, tmp_path: Path) -> None:
    source = tokenizer_json()
    (write_tokenizer(tmp_path, source) / "tokenizer.model").write_bytes(content)
    assert not differences(metadata_of(tmp_path), source)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(EdgeLLMError, match=r"tiktoken|Git LFS|expected tokenizer\.json"):
        metadata_of(tmp_path)


def test_a_damaged_model_file_beside_tokenizer_json(tmp_path: Path) -> None:
    model = sentencepiece_model().replace(SPACE.encode(), b"\xff\x81\x81")
    source = sentencepiece_json(pre_tokenizer=metaspace("first"))
    (write_tokenizer(tmp_path, source) / "tokenizer.model").write_bytes(model)
    assert not differences(metadata_of(tmp_path), source)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FormatError, match=r"tokenizer\.model cannot be read"):
        metadata_of(tmp_path)


def test_a_unigram_model_file_beside_tokenizer_json(tmp_path: Path) -> None:
    source = unigram_json(pre_tokenizer=metaspace("always"))
    (write_tokenizer(tmp_path, source) / "tokenizer.model").write_bytes(sentencepiece_model("unigram"))
    assert not differences(metadata_of(tmp_path), source)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (1, None, {1}),
        ([1, 5, 6], None, {1, 5, 6}),
        ([1, 5], [6, 7, 8, 9], {1, 5, 6, 7, 8, 9}),
        (5, [6, 7, 10**6, -1, "x"], {1, 5, 6, 7}),
        ({"nested": [1, 7, 8, 9]}, None, {1, 7, 8, 9}),
    ],
)
def test_every_end_of_every_list(config: Any, generation: Any, expected: set[int], tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer_json())
    settings = json.loads((tmp_path / "config.json").read_text())
    settings.pop("eos_token_id")
    settings |= (
        {"text_config": {"eos_token_id": config["nested"]}}
        if isinstance(config, dict)
        else {"eos_token_id": config}
    )
    (tmp_path / "config.json").write_text(json.dumps(settings))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert Tokenizer.from_metadata(metadata_of(tmp_path)).eog_ids == expected


DAMAGED: dict[str, tuple[Any, type[EdgeLLMError]]] = {
    "model": (lambda s: s.update(model=3), FormatError),
    "model type": (lambda s: s["model"].update(type="WordLevel2"), FormatError),
    "merges": (lambda s: s["model"].update(merges="a b"), FormatError),
    "vocab": (lambda s: s["model"].update(vocab=[1, 2]), EdgeLLMError),
    "id": (lambda s: s["model"]["vocab"].update(x=-1), FormatError),
    "added": (lambda s: s.update(added_tokens=[{"id": "1", "content": 3}]), FormatError),
    "pre-tokenizer": (lambda s: s.update(pre_tokenizer={"type": "Nonesuch"}), FormatError),
    "expression": (lambda s: s.update(pre_tokenizer=split({"Regex": "(" * 9}, "Isolated")), FormatError),
    "fixed length": (lambda s: s.update(pre_tokenizer={"type": "FixedLength", "length": 0}), EdgeLLMError),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    change, error = DAMAGED[name]
    source = copy.deepcopy(tokenizer_json())
    change(source)
    with pytest.raises(error):
        metadata_of(write_tokenizer(tmp_path, source))


HOSTILE: dict[str, tuple[Any, type[EdgeLLMError], str]] = {
    "not JSON": ("{", FormatError, "expected an object with a model"),
    "no model": ("{}", FormatError, "expected an object with a model"),
    "deep": ("[" * 100_000, FormatError, "expected an object with a model"),
    "WordLevel": ('{"model": {"type": "WordLevel"}}', UnsupportedError, "supported are BPE"),
    "option": ('{"model": {"type": "BPE", "fuse_unk": "x"}}', FormatError, "the model cannot be made"),
    "step": ('{"model": {"type": "BPE"}, "normalizer": {"type": "x"}}', FormatError, "cannot be used"),
    "growth": (
        json.dumps({"model": {"type": "BPE"}, "normalizer": sequence(*[DOUBLE] * 40, of="normalizers")}),
        UnsupportedError,
        "times as long",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pipelines_are_refused(name: str, tmp_path: Path) -> None:
    text, error, message = HOSTILE[name]
    metadata = metadata_of(write_tokenizer(tmp_path, trained_json("BPE", None, {"type": "Whitespace"})))
    with pytest.raises(error, match=message):
        Tokenizer.from_metadata(metadata | {PIPELINE: text})


def test_pipelines_that_fail_on_a_text(tmp_path: Path) -> None:
    metadata = metadata_of(write_tokenizer(tmp_path, trained_json("BPE", None, {"type": "Whitespace"})))
    loops = {"model": {"type": "BPE"}, "pre_tokenizer": split({"Regex": "(a+)+b"}, "Isolated")}
    with pytest.raises(ModelError, match="cannot encode a text of 40 characters"):
        Tokenizer.from_metadata(metadata | {PIPELINE: json.dumps(loops)}).encode("a" * 40)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"expected tokenizer\.json, tokenizer\.model, vocab\.json"):
        metadata_of(write_tokenizer(tmp_path, None))


def test_the_unknown_token_is_that_of_the_model(tmp_path: Path) -> None:
    source = unigram_json(pre_tokenizer=metaspace("always"))
    source["model"] |= {"unk_id": 2, "byte_fallback": False}
    metadata = metadata_of(write_tokenizer(tmp_path, source, {"unk_token": "<unk>"}))
    assert metadata["tokenizer.ggml.unknown_token_id"] == 2
    assert not differences(metadata, source, ["\u2603 a", "日本"])
