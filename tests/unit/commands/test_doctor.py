"""`edgellm doctor`: its findings about packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.commands.doctor import _version


def test_a_package_on_the_path_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lies_about.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert _version("lies_about", {}) == "of unknown version"
    assert _version("lies_nowhere", {}) is None
