"""Stop texts never leak, whatever pieces they come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgellm.engine.stops import StopFilter


def run(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    filtered = StopFilter(stops)
    out = "".join(filtered.push(piece) for piece in pieces) + filtered.flush()
    return out, filtered.matched


def test_a_stop_text_in_pieces_is_held_back_until_it_is_certain() -> None:
    filtered = StopFilter(["</end>"])
    assert filtered.push("abc<") == "abc"
    assert filtered.push("/en") == ""
    assert filtered.push("x") == "</enx"
    assert filtered.push("y</end>z") == "y"
    assert filtered.matched == "</end>"
    assert filtered.push("more") == ""
    assert filtered.flush() == ""


def test_without_stop_texts_everything_passes_at_once() -> None:
    assert StopFilter([]).push("abc") == "abc"


def test_an_unfinished_stop_text_is_part_of_the_answer() -> None:
    assert run(["a", "b"], ["bc"]) == ("ab", None)


@given(
    st.lists(st.text("ab", max_size=3), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_text_before_the_stop_is_all_of_it_and_holds_no_stop(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    out, matched = run(pieces, stops)
    if matched is None:
        assert out == whole
        assert not any(stop in whole for stop in stops)
    else:
        assert whole.startswith(out + matched)
    assert not any(stop in out for stop in stops)


@given(st.text("ab", max_size=20), st.text("ab", min_size=1, max_size=4), st.data())
def test_one_stop_text_cuts_where_find_says(text: str, stop: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = text.find(stop)
    assert run(pieces, [stop]) == (text if found < 0 else text[:found], None if found < 0 else stop)
