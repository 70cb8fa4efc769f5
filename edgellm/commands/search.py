"""`edgellm search`: GGUF models on the Hugging Face Hub."""

from __future__ import annotations

import json

from edgellm.commands.options import JSON, Command, Positional
from edgellm.commands.settings import Settings
from edgellm.errors import DownloadError, harmless
from edgellm.store.hub_access import search
from edgellm.store.paths import offline_by_environment


def run(settings: Settings) -> int:
    """Print the repositories found, the most fetched first."""
    words = " ".join(settings["words"])
    if offline_by_environment():
        raise DownloadError("The network is off (EDGELLM_OFFLINE or HF_HUB_OFFLINE), and search needs it")
    found = search(words)
    if settings["json"]:
        print(json.dumps([one._asdict() for one in found], indent=2))
        return 0
    if not found:
        raise DownloadError(f"The Hub has no GGUF model for {words!r}; try fewer words")
    width = max(len(one.repo) for one in found)
    for one in found:
        gated = "  (its terms must be accepted first)" if one.gated else ""
        print(harmless(f"{one.repo:<{width}}  {one.downloads:>10} downloads a month{gated}"))
    print(f"\nTo talk with one: edgellm chat {harmless(found[0].repo)}:Q4_K_M")
    return 0


COMMAND = Command(
    summary="Find models on the Hugging Face Hub.",
    run=run,
    description="Lists repositories with GGUF files whose names hold the words, the most fetched first.",
    positionals=(Positional("words", "words of a model's name", "+"),),
    options=(JSON,),
    examples=(("edgellm search qwen3 0.6b", "repositories of one model"),),
)
