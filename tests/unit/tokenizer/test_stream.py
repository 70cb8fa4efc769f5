"""The incremental decoder gives, piece by piece, the text of all bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgellm.tokenizer import StreamDecoder
from tests.support.vocabularies import small_spm, tokenizer


@given(st.lists(st.binary(max_size=6), max_size=20))
def test_pieces_are_the_text_of_all_bytes(pieces: list[bytes]) -> None:
    stream = StreamDecoder(pieces.__getitem__)
    parts = [stream.push(i) for i in range(len(pieces))]
    assert "".join(parts) + stream.flush() == b"".join(pieces).decode("utf-8", "replace")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.data())
def test_valid_text_is_never_replaced(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    stream = StreamDecoder(pieces.__getitem__)
    shown = ""
    for i in range(len(pieces)):
        shown += stream.push(i)
        assert text.startswith(shown)
    assert stream.flush() == ""
    assert shown == text


def test_an_unfinished_character_waits_for_the_flush() -> None:
    stream = StreamDecoder([b"a\xf0\x9f", b"\x99", b"b"].__getitem__)
    assert (stream.push(0), stream.push(1)) == ("a", "")
    assert stream.flush() == "\ufffd"
    assert stream.push(2) == "b"


def test_special_tokens_are_not_shown_unless_asked_for() -> None:
    subject = tokenizer("qwen2")
    end = subject.token_id("<|im_end|>")
    assert end is not None
    assert subject.stream().push(end) == ""
    assert subject.stream(skip_special=False).push(end) == "<|im_end|>"


def test_the_space_of_a_continuation_is_kept() -> None:
    from edgellm.tokenizer import Tokenizer

    subject = Tokenizer.from_metadata(small_spm())  # type: ignore[arg-type]
    token = subject.token_id("\u2581ab")
    assert token is not None
    assert subject.stream().push(token) == " ab"
