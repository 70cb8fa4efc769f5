"""Models on the Hub: names, the choice of a file, the cache that other programs share, and fetching."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.errors import DownloadError
from edgellm.store import hub
from edgellm.store.resolve import resolve

FILES = [
    "README.md",
    "model-Q4_0.gguf",
    "model-Q4_K_M.gguf",
    "model-IQ4_NL.gguf",
    "mmproj-Q4_K_M.gguf",
    "big/model-Q8_0-00001-of-00002.gguf",
    "big/model-Q8_0-00002-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("u/r", "model-Q4_K_M.gguf"),
        ("u/r:Q4_0", "model-Q4_0.gguf"),
        ("u/r:q4_k_m", "model-Q4_K_M.gguf"),
        ("hf.co/u/r:IQ4_NL", "model-IQ4_NL.gguf"),
        ("u/r:Q8_0", "big/model-Q8_0-00001-of-00002.gguf"),
        ("u/r/model-Q4_0.gguf", "model-Q4_0.gguf"),
        ("u/r/big/model-Q8_0-00001-of-00002.gguf", "big/model-Q8_0-00001-of-00002.gguf"),
    ],
)
def test_hub_names(name: str, file: str) -> None:
    parsed = hub.parse_name(name)
    assert parsed is not None
    assert parsed.repo == "u/r"
    assert hub.choose(FILES, parsed) == file


@pytest.mark.parametrize("name", ["u/r:Q5_K_M", "u/r/none.gguf"])
def test_hub_names_that_are_not_there(name: str) -> None:
    parsed = hub.parse_name(name)
    assert parsed is not None
    with pytest.raises(DownloadError, match=r"it has .*model-Q4_0\.gguf"):
        hub.choose(FILES, parsed)


@pytest.mark.parametrize("name", ["plain", "u/../r", "a/b c", "/a/b", "u/r:", "u/r:Q4/../../x"])
def test_what_is_no_hub_name(name: str) -> None:
    assert hub.parse_name(name) is None


def fill_cache(folder: Path, files: dict[str, bytes]) -> None:
    repository = folder / "models--u--r"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    for name, content in files.items():
        path = repository / "snapshots" / "abc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_the_cache_is_used_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    fill_cache(tmp_path, {"m-Q4_0.gguf": b"x", "m-Q8_0-00001-of-00002.gguf": b"x"})
    assert resolve("u/r:Q4_0", offline=True).name == "m-Q4_0.gguf"
    assert [name for name, _ in hub.cached_files()] == ["u/r/m-Q4_0.gguf", "u/r/m-Q8_0-00001-of-00002.gguf"]
    with pytest.raises(DownloadError, match=r"not on disk"):
        # One of its two parts is missing.
        resolve("u/r:Q8_0", offline=True)


def test_fetching_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, str]] = []

    def list_files(repo: str, revision: str | None = None) -> list[str]:
        return FILES

    def download(repo: str, file: str, revision: str | None = None) -> str:
        asked.append((repo, file))
        if "Q4_0" in file:
            raise OSError("broken\nmore")
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "list_files", list_files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert resolve("u/r:Q8_0") == tmp_path / FILES[5]
    assert asked == [("u/r", FILES[5]), ("u/r", FILES[6])]
    with pytest.raises(DownloadError, match=r"cannot be fetched from the Hub \(broken\)$"):
        resolve("u/r:Q4_0")
