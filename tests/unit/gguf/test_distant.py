"""Headers read from elsewhere, by as few bytes as they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.errors import FormatError
from edgellm.gguf import distant
from edgellm.gguf.distant import ReadRange, read_distant
from edgellm.gguf.reader import GGUFFile
from tests.support.tiny_model import tiny_builder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_builder().write(tmp_path / "model.gguf")


def _reader(content: bytes, size: int | None = None) -> tuple[ReadRange, list[tuple[int, int]]]:
    asked: list[tuple[int, int]] = []

    def read(name: str, start: int, end: int) -> tuple[bytes, int]:
        asked.append((start, end))
        return content[start:end], len(content) if size is None else size

    return read, asked


@pytest.mark.parametrize("first", [32, 100, 1000, 1 << 20])
def test_a_distant_header_is_the_files_own(model: Path, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distant, "_FIRST_BYTES", first)
    read, asked = _reader(model.read_bytes())
    found = read_distant([str(model)], read)
    with GGUFFile.open(model) as own:
        assert dict(found.metadata) == dict(own.metadata)
        assert found.tensors == own.tensors
        header_end = min(info.offset for info in own.tensors.values())
    read_to = max(min(end, model.stat().st_size) for _, end in asked)
    assert read_to <= max(first, 3 * header_end // 2)
    # No byte is asked for twice.
    assert [start for start, _ in asked[1:]] == [end for _, end in asked[:-1]]


def test_no_tensor_of_a_distant_model_can_be_read(model: Path) -> None:
    read, _ = _reader(model.read_bytes())
    with pytest.raises(AttributeError):
        read_distant([str(model)], read).view("output_norm.weight")


def test_a_file_that_ends_in_its_header_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distant, "_FIRST_BYTES", 64)
    content = model.read_bytes()
    read, _ = _reader(content[:500], len(content))
    with pytest.raises(FormatError, match="header ends after 500 bytes"):
        read_distant([str(model)], read)
    read, _ = _reader(b"<html>" + bytes(100))
    with pytest.raises(FormatError, match="HTML page"):
        read_distant(["page"], read)


def test_a_header_without_end_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distant, "_FIRST_BYTES", 64)
    monkeypatch.setattr(distant, "_MOST_BYTES", 400)
    read, asked = _reader(model.read_bytes())
    with pytest.raises(FormatError, match="more than 400 B"):
        read_distant([str(model)], read)
    assert asked[-1][1] <= 400
