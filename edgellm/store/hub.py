"""GGUF files of the Hugging Face Hub: `user/repo:QUANT` or `user/repo/file.gguf`, in its own cache.

The cache is read without `huggingface_hub`, so a model that is on disk needs neither it nor the network.
Cache layout: `models--USER--REPO/{refs/main, snapshots/COMMIT/FILE}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import DownloadError
from edgellm.store.hub_access import explained, list_files
from edgellm.store.paths import hub_cache, offline_by_environment

_NAME = re.compile(
    r"(?:hf\.co/|https://huggingface\.co/)?(?P<repo>[\w.-]+/[\w.-]+?)"
    r"(?:/(?P<file>[\w./ -]+\.gguf)|:(?P<quant>[\w.-]+))?"
)
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_PREFERRED = ("Q4_K_M", "Q4_0", "Q4_1", "Q4_K_S", "Q5_K_M", "Q8_0")


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on the Hub: a file, a quantization, or (neither) the repository's default one."""

    repo: str
    file: str | None
    quant: str | None


def parse_name(name: str) -> HubName | None:
    """`user/repo`, `user/repo:QUANT` or `user/repo/file.gguf`; None for anything else."""
    match = _NAME.fullmatch(name)
    if match is None or ".." in name:
        return None
    return HubName(match["repo"], match["file"], match["quant"])


def choose(files: Sequence[str], name: HubName) -> str:
    """Choose one of a repository's files (the first part of a split one); DownloadError if none fits."""
    models = [f for f in sorted(files) if f.endswith(".gguf") and "mmproj" not in f.lower()]
    firsts = [f for f in models if is_first(f)]
    if name.file is not None:
        if name.file in models:
            return name.file
        raise DownloadError(f"{name.repo} has no file {name.file}; it has {_listed(firsts)}")
    wanted = [name.quant] if name.quant else list(_PREFERRED)
    for quant in wanted:
        pattern = re.compile(rf"(?:^|[-._/]){re.escape(quant)}(?:[-._/]|$)", re.IGNORECASE)
        for file in firsts:
            if pattern.search(file):
                return file
    if name.quant is None and len(firsts) == 1:
        return firsts[0]
    asked = f"no quantization {name.quant}" if name.quant else "none of the usual quantizations"
    raise DownloadError(f"{name.repo} has {asked}; it has {_listed(firsts)}")


def cached(name: HubName) -> Path | None:
    """The file in the cache; None if it, or a part of it, is missing."""
    repository = hub_cache() / ("models--" + name.repo.replace("/", "--"))
    for snapshot in _snapshots(repository):
        files = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*.gguf") if path.is_file()]
        try:
            chosen = choose(files, name)
        except DownloadError:
            continue
        if set(parts(chosen)) <= set(files):
            return snapshot / chosen
    return None


def cached_files() -> Iterator[tuple[str, Path]]:
    """(name, path) of each GGUF in the cache, `user/repo/file.gguf`, first parts only."""
    seen = set()
    for repository in sorted(hub_cache().glob("models--*--*")):
        repo = repository.name.removeprefix("models--").replace("--", "/", 1)
        for snapshot in _snapshots(repository):
            for path in sorted(snapshot.rglob("*.gguf")):
                name = f"{repo}/{path.relative_to(snapshot)}"
                if path.is_file() and name not in seen and is_first(path.name):
                    seen.add(name)
                    yield name, path


def is_first(file: str) -> bool:
    """True for the first file of a split model, and for any other model's only one."""
    split = _SPLIT.search(file)
    return split is None or int(split[1]) == 1


def parts(file: str) -> list[str]:
    """All files of a split model, given its first; of any other, itself."""
    split = _SPLIT.search(file)
    if split is None:
        return [file]
    stem = file[: split.start()]
    return [f"{stem}-{n:05}-of-{split[2]}.gguf" for n in range(1, int(split[2]) + 1)]


def fetch(name: HubName) -> Path:
    """The file, downloaded into the cache unless it is there; DownloadError if it cannot be fetched."""
    chosen = choose(list_files(name.repo), name)
    paths = [download(name.repo, file) for file in parts(chosen)]
    return paths[0]


def fetch_checked(name: HubName) -> tuple[Path, str]:
    """The file, downloaded, and its SHA-256; DownloadError if that is not the one that the Hub gives.

    The Hub's cache names a large file by the SHA-256 that the Hub gives, and links to it.
    """
    from edgellm.store.fetch import sha256_of

    path = fetch(name)
    given, found = path.resolve().name, sha256_of(path)
    if re.fullmatch("[0-9a-f]{64}", given) and given != found:
        raise DownloadError(
            f"{path} has the SHA-256 {found}, and the Hub gives {given}; remove the file and fetch it again"
        )
    return path, found


def download(repo: str, file: str, revision: str | None = None) -> Path:
    """Download one file of a repository, or continue a partial download; DownloadError if that fails."""
    from huggingface_hub import hf_hub_download

    # Any error: the library lets through those of its HTTP library and of its transfer service.
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except Exception as error:
        raise explained(error, f"{repo}/{file}", revision) from None


def cached_folder(repo: str, revision: str | None = None) -> Path | None:
    """Folder of a repository's commit in the cache, with the files that are there; None if it is not."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except Exception:
        return None  # the library has an error for each way of not being there


def download_folder(repo: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The files of a repository that match, in the cache's folder of that commit; DownloadError if not.

    Without a network the cache's are taken, if they are there.
    """
    from huggingface_hub import snapshot_download

    refused = None
    if not offline_by_environment():
        try:
            list_files(repo, revision)
        except DownloadError as error:
            refused = error
    try:
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=list(patterns), local_files_only=refused is not None
        )
    except Exception as error:
        raise refused or explained(error, repo, revision) from None
    return Path(folder)


def _snapshots(repository: Path) -> list[Path]:
    """Snapshots of a repository, the one of its main branch first."""
    snapshots = sorted((repository / "snapshots").glob("*"))
    main = repository / "refs" / "main"
    commit = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    return sorted(snapshots, key=lambda path: path.name != commit)


def _listed(files: Sequence[str]) -> str:
    if not files:
        return "no GGUF file"
    more = f" and {len(files) - 12} more" if len(files) > 12 else ""
    return ", ".join(files[:12]) + more
