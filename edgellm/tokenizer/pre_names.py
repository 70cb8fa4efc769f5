"""Rules by the values of `tokenizer.ggml.pre`: expressions that cut text before byte-pair merging.

The expressions are those of the models' own tokenizer.json files where they are known (Oniguruma
syntax), and otherwise those that llama.cpp uses under the same name. They are applied in order, each to
the pieces the one before left, and never drop text. None of them backtracks more than linearly.
"""

from __future__ import annotations

from typing import NamedTuple


class Thousands(NamedTuple):
    """Cut each run that `run` matches into groups of three, counted from its end.

    `category` is the Unicode category of all its characters: N (numbers) or Nd (decimal digits).
    """

    run: str
    category: str = "Nd"


Rule = str | Thousands


class PreTokenizerSpec(NamedTuple):
    """The rules of one name and the defaults that go with it.

    `ignore_merges`: a piece that is a token stays whole. `byte_level`: bytes are written as GPT-2's 256
    printable characters; otherwise text stays UTF-8, spaces are U+2581, and missing characters are byte
    tokens.
    """

    rules: tuple[Rule, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    byte_level: bool = True


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = f"{_CONTRACTIONS}|{_WORD}|\\p{{N}}{{1,3}}{_SYMBOLS}{_TAIL}"
_QWEN2 = f"{_CONTRACTIONS}|{_WORD}|\\p{{N}}{_SYMBOLS}{_TAIL}"
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _TAIL
_JAIS2 = f"{_CONTRACTIONS}|{_WORD}|\\p{{N}}{{1,3}}{_SYMBOLS}" + (
    r"|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)"
    r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
)


def _cased(contractions: str, upper: str, lower: str, numbers: str, symbols: str) -> str:
    """Words cut where lower case turns to upper case (o200k and its relatives)."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{upper}*{lower}+{contractions}|{start}{upper}+{lower}*{contractions}"
    return f"{words}|{numbers}{symbols}{_TAIL}"


_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SYMBOLS_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
_GPT4O = _cased(_CONTRACTIONS + "?", _UPPER, _LOWER, r"\p{N}{1,3}", _SYMBOLS_SLASH)
_TEKKEN = _cased("", _UPPER, _LOWER, r"\p{N}", _SYMBOLS_SLASH)
_KIMI = r"\p{Han}+|" + _cased(
    _CONTRACTIONS + "?",
    r"(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])",
    r"(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])",
    r"\p{N}{1,3}",
    _SYMBOLS,
)
_PUNCTUATED = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
)
_DEEPSEEK3 = (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _PUNCTUATED + r"[\r\n]*" + _TAIL)
_POEM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_HAN_AND_HANGUL = "[一-龥ࠀ-一가-\ud7ff]+"

# The cased letters of Unicode 11, as DeepSeek's first tokenizer lists them.
_CASED_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbe"
    "ῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
    "𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)

_DIGITS_GPT2 = PreTokenizerSpec((r"\p{N}", _GPT2))
_PLAIN_GPT2 = PreTokenizerSpec((_GPT2,))
_PLAIN_LLAMA3 = PreTokenizerSpec((_LLAMA3,))
_PLAIN_QWEN2 = PreTokenizerSpec((_QWEN2,))
_PLAIN_DEEPSEEK3 = PreTokenizerSpec(_DEEPSEEK3)
_PLAIN_GPT4O = PreTokenizerSpec((_GPT4O,))
_LINES = PreTokenizerSpec((r"[^\n]+|[\n]+",), byte_level=False)

_FAMILIES: tuple[tuple[tuple[str, ...], PreTokenizerSpec], ...] = (
    (
        ("default",),
        PreTokenizerSpec((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ),
    (
        (
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ),
        PreTokenizerSpec((_LLAMA3,), ignore_merges=True, add_bos=True),
    ),
    (("smaug-bpe", "dbrx", "glm4", "chatglm-bpe"), _PLAIN_LLAMA3),
    (("jais-2",), PreTokenizerSpec((_JAIS2,))),
    (
        ("minicpm5",),
        PreTokenizerSpec(
            (r"\p{N}{1,3}", f"{_CONTRACTIONS}|{_WORD}|\\p{{N}}+{_SYMBOLS}{_TAIL}"), ignore_merges=True
        ),
    ),
    (
        ("deepseek-llm",),
        PreTokenizerSpec(
            (
                r"[\r\n]",
                rf"\s?[{_CASED_LETTERS}]+",
                r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
                r"(?<!\s)\s+$",
                _HAN_AND_HANGUL,
                r"\p{N}+",
            )
        ),
    ),
    (
        ("deepseek-coder",),
        PreTokenizerSpec((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, r"\p{N}")),
    ),
    (("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _PLAIN_DEEPSEEK3),
    (
        ("spark2_5",),
        PreTokenizerSpec((*_DEEPSEEK3[:2], _PUNCTUATED + r"|[\r\n]|\s+(?!\S)|\s+", r"\p{N}")),
    ),
    (
        ("afmoe",),
        PreTokenizerSpec(
            (
                Thousands(r"\p{N}+", "N"),
                "[一-鿿㐀-䶿豈-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟\u0e00-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f"
                "\uaa60-\uaa7f\ua9e0-\ua9ff가-\ud7af\u1100-\u11ff]+",
                _PUNCTUATED + r"[\r\n]*" + _TAIL,
            )
        ),
    ),
    (
        ("youtu",),
        PreTokenizerSpec(
            (
                "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
                _cased(_CONTRACTIONS + "?", _UPPER, _LOWER, r"\p{N}", _SYMBOLS_SLASH),
            ),
            ignore_merges=True,
        ),
    ),
    (("falcon",), PreTokenizerSpec((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    (
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
        _DIGITS_GPT2,
    ),
    (
        (
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ),
        _PLAIN_GPT2,
    ),
    (
        (
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ),
        _PLAIN_QWEN2,
    ),
    (("qwen35",), PreTokenizerSpec((_QWEN35,))),
    (("ufakzeka",), PreTokenizerSpec((f"{_WORD}|\\p{{N}}{_SYMBOLS}{_TAIL}",))),
    (("laguna",), PreTokenizerSpec((r"[^\n]+|[\n]+", _QWEN2))),
    (("poro-chat", "bloom", "gpt3-finnish"), PreTokenizerSpec((_POEM,))),
    (("viking",), PreTokenizerSpec((_POEM, r"\p{N}"))),
    (("tekken",), PreTokenizerSpec((_TEKKEN,), ignore_merges=True, add_bos=True)),
    (
        ("chameleon",),
        PreTokenizerSpec(
            (
                "<sentinel:[0-9]+>",
                "IMGIMG[A-I]{1,4}Z",
                r"[\t\n]|    |  ",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            add_bos=True,
        ),
    ),
    (("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _PLAIN_GPT4O),
    (("granite-embed-multi-97m",), PreTokenizerSpec((_GPT4O,), ignore_merges=True)),
    (("tiny_aya", "cohere2moe"), PreTokenizerSpec((Thousands(r"(?<!\d)\d++(?!\w)"), _GPT4O))),
    (("kimi-k2",), PreTokenizerSpec((_KIMI,))),
    (("superbpe",), PreTokenizerSpec((r"\p{N}+", Thousands(r"\d+")))),
    (
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        PreTokenizerSpec(
            (
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
                r"|\s+(?!\S)|\s+",
            )
        ),
    ),
    (
        ("seed-coder",),
        PreTokenizerSpec((f"{_CONTRACTIONS}|{_WORD}|\\p{{N}}| ?[^\\s\\p{{L}}\\p{{N}}\\r\\n]+{_TAIL}",)),
    ),
    (
        ("exaone-moe",),
        PreTokenizerSpec(
            (
                _CONTRACTIONS
                + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
                r"|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    (("gemma4", "granite-embed-multi-311m"), _LINES),
    (("sarvam-moe",), _LINES),
)

PRE_TOKENIZERS: dict[str, PreTokenizerSpec] = {name: spec for names, spec in _FAMILIES for name in names}
