"""Sources from which `edgellm serve --allow-pull` lets clients fetch models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import DownloadError, UsageError
from edgellm.store import hub
from edgellm.store.catalog import find_known, is_stored, stored_path
from edgellm.store.hub_catalog import find_on_hub

if TYPE_CHECKING:
    from edgellm.server.puller import Puller
    from edgellm.store.http import Report

CATALOG = "catalog"
_PATTERN = re.compile(r"[\w.*-]+/[\w.*-]+")


def puller(sources: Sequence[str]) -> Puller:
    """A way to fetch and remove models for clients. sources: `catalog` and patterns such as `user/*`."""
    from edgellm.commands.rm import remove
    from edgellm.server.puller import Puller

    for source in sources:
        if source != CATALOG and not _PATTERN.fullmatch(source):
            raise UsageError(
                f"--allow-pull is {source!r}; it must be {CATALOG}, user/repo or user/* of the Hub."
            )

    def allowed(name: str) -> bool:
        if find_known(name) is not None or find_on_hub(name) is not None:
            return CATALOG in sources
        found = hub.parse_name(name)
        return found is not None and any(fnmatchcase(found.repo, source) for source in sources)

    return Puller(tuple(sources), allowed, _fetch, remove)


def _fetch(name: str, report: Report) -> Path:
    """File of a name that is allowed; a file of that name on this machine does not count."""
    known = find_known(name)
    if known is not None:
        from edgellm.store.fetch import fetch

        return stored_path(known) if is_stored(known) else fetch(known, report)
    listed = find_on_hub(name)
    found = hub.parse_name(name if listed is None else listed.reference)
    if found is None:
        raise DownloadError(f"{name} is no name of a model.")
    return hub.cached(found) or (hub.fetch(found) if listed is None else hub.fetch_checked(found)[0])
