"""The text form reads back to the same program and refuses everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import FormatError, ModelError
from edgellm.program import from_text, to_text
from tests.unit.program.small import small_program

TEXT = to_text(small_program())
LINES = TEXT.splitlines()


def test_text_is_what_the_architecture_document_says() -> None:
    assert LINES[:6] == [
        "program small n_vocab=5 width=8 n_layers=1 n_ctx_train=16 pooling=mean",
        "table rope mscale=1.25 inv_freq=1.0,0.1",
        "cache 0 n_kv_heads=1 key_dim=4 value_dim=4 window=3",
        "state 0 kind=short_conv size=16",
        "weight embd 5 8",
        "weight norm 8",
    ]
    assert "x1 = norm x0 weight:norm kind=rms eps=1e-05 groups=1 -> 8" in LINES
    assert "x2 = linear x1 weight:q bias:q.bias -> 8" in LINES
    assert (
        "x7 = attention x3 x5 x6 cache=0 n_heads=2 scale=0.5 window=3 softcap=0.0 causal=true "
        "max_distance=0 max_bias=0.0 bias_scale=1.0 -> 8" in LINES
    )
    assert LINES[-1] == "output hidden=x9 logits=x10"


def test_round_trip() -> None:
    program = small_program()
    assert from_text(TEXT) == program
    assert to_text(from_text(TEXT)) == TEXT


def test_comments_and_blank_lines_are_skipped() -> None:
    assert from_text("# a program\n\n" + TEXT.replace("\n", "\n# next\n\n")) == small_program()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_read_back_to_the_same_double(value: float) -> None:
    text = TEXT.replace("mscale=1.25", f"mscale={value!r}")
    assert from_text(text).tables["rope"].mscale == value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("program small", "programme small", "one 'program' line, first"),
        ("n_vocab=5 ", "", "line 1: found 'width=8', expected n_vocab=..."),
        ("n_vocab=5", "n_vocab=five", "'five', expected an integer"),
        ("n_vocab=5", "n_vocab=5.0", "expected an integer"),
        ("n_vocab=5", "n_vocab=" + "9" * 4000, "expected an integer"),
        ("pooling=mean", "pooling=mean more=1", "expected the end of the line"),
        ("inv_freq=1.0,0.1", "inv_freq=1.0,,0.1", "expected a number"),
        ("cache 0", "cache 1", "expected the next number, 0"),
        ("kind=short_conv size=16", "kind=long size=16", "expected one of short_conv"),
        ("weight norm 8", "weight norm 8\nweight norm 8", "no earlier line has defined"),
        ("x1 = norm", "x1 = norms", "expected one of embed"),
        ("x1 = norm", "x1 : norm", "expected a declaration or an operation"),
        ("x1 = norm", "x0 = norm", "no earlier line has defined"),
        ("weight:norm kind", "wait:norm kind", "expected role:weight"),
        ("weight:q bias:q.bias", "bias:q.bias weight:q", "in order"),
        ("kind=rms eps=1e-05", "eps=1e-05 kind=rms", "expected kind="),
        ("groups=1 -> 8", "-> 8", "expected"),
        ("causal=true", "causal=True", "expected true or false"),
        (" -> 5", " 5", "'-> width' at the end"),
        ("output hidden", "# output hidden", "cut short"),
        ("logits=x10\n", "logits=x10\nweight late 3\n", "nothing after the 'output' line"),
    ],
)
def test_malformed_text_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(FormatError) as error:
        from_text(TEXT.replace(old, new))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-> 5", "-> 6", "declared 6 wide, but makes 5"),
        ("weight v 4 8", "weight v 4 9", "weight 'v' has shape (4, 9), expected (any, 8)"),
        ("weight norm 8", "weight norm 7", "expected (8)"),
        ("weight norm 8", "weight norm 0", "sizes of at least 1"),
        ("weight norm 8", "weight norm", "1 to 4 sizes"),
        ("key_dim=4", "key_dim=5", "q's head has width 4, expected 5"),
        ("window=3 softcap", "window=0 softcap", "keeps only 3 tokens"),
        ("size=16", "size=17", "state 0 is short_conv of 17 values, expected short_conv of 16"),
        ("cache=0", "cache=1", "cache=1, expected 0 to 0"),
        ("table=rope", "table=rose", "the tables are rope"),
        ("kind=interleaved", "kind=spiral", "expected one of neox, interleaved"),
        ("eps=1e-05", "eps=nan", "expected a finite float"),
        ("inv_freq=1.0,0.1", "inv_freq=1.0,inf", "all of them finite"),
        ("inv_freq=1.0,0.1", "inv_freq=1.0,0.1,0.01", "the table rotates 6 values"),
        ("hidden=x9", "hidden=x99", "hidden='x99', which no operation makes"),
        ("logits=x10", "logits=x9", "8 wide, expected 5"),
        ("logits=x10", "logits=-", "makes a value that nothing reads"),
        ("norm x0", "norm x5", "reads 'x5', which no earlier operation makes"),
        ("weight:norm kind", "weight:norma kind", "weight 'norma' is not declared"),
        ("output hidden", "weight spare 3\noutput hidden", "'spare' is declared, but no operation uses it"),
        ("n_layers=1", "n_layers=0", "n_layers=0"),
        ("pooling=mean", "pooling=most", "expected one of mean, cls, last"),
    ],
)
def test_inconsistent_text_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(ModelError) as error:
        from_text(TEXT.replace(old, new))
    assert message in str(error.value)


@given(st.integers(0, len(TEXT) - 1), st.text(max_size=3), st.integers(0, 4))
def test_damaged_text_never_ends_in_a_crash(position: int, insert: str, n_removed: int) -> None:
    try:
        program = from_text(TEXT[:position] + insert + TEXT[position + n_removed :])
    except (FormatError, ModelError):
        return
    assert program.ops
