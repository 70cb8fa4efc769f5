"""Folders of models, downloads and configuration."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$EDGELLM_HOME`, or `edgellm` in the user's data folder (XDG base directory specification)."""
    if chosen := os.environ.get("EDGELLM_HOME"):
        return Path(chosen).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "edgellm"


def models_folder() -> Path:
    """Folder of whole, checked model files."""
    return home() / "models"


def state_folder() -> Path:
    """Folder of measurements and choices for this machine; what is lost there is made again."""
    return home() / "state"


def downloads_folder() -> Path:
    """Folder of partial downloads."""
    return home() / "downloads"


def config_file() -> Path:
    """`$EDGELLM_CONFIG`, or `edgellm/config.toml` in the user's configuration folder."""
    if chosen := os.environ.get("EDGELLM_CONFIG"):
        return Path(chosen).expanduser()
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "edgellm" / "config.toml"


def hub_cache() -> Path:
    """The cache of Hugging Face tools: `$HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub`."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    if chosen := os.environ.get("HF_HOME"):
        return Path(chosen).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def offline_by_environment() -> bool:
    """True if `EDGELLM_OFFLINE` or `HF_HUB_OFFLINE` forbids the network."""
    names = ("EDGELLM_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)
