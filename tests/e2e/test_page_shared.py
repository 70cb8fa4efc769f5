"""Conversations that a server keeps, in two browsers."""

from __future__ import annotations

from pathlib import Path

from edgellm.server.chat_folder import chat_folder
from edgellm.server.settings import ServerSettings
from tests.support.browser import (
    OPTIONS,
    WebDriver,
    answer,
    ask,
    click,
    faults,
    find,
    finished,
    keep,
    open_browser,
    open_page,
    text_of,
    texts,
    wait,
)
from tests.support.http_server import running
from tests.support.tiny_model import write_tiny_model

from selenium.webdriver.common.keys import Keys  # isort: skip


def returned(browser: WebDriver) -> None:
    """Let the page learn that a person has come back to it."""
    browser.execute_script("document.dispatchEvent(new Event('visibilitychange'))")


def test_phone_and_laptop_share_conversations(tmp_path: Path) -> None:
    settings = ServerSettings(port=0, chats=chat_folder(tmp_path / "chats"))
    model = write_tiny_model(tmp_path / "tiny.gguf")
    with (
        running([("tiny", model)], OPTIONS, settings) as server,
        open_browser("phone", tmp_path / "a") as phone,
        open_browser("desk", tmp_path / "b") as desk,
    ):
        open_page(phone, server, n_models=1)
        keep(phone, settings={"max_tokens": 3})
        wait(lambda: text_of(phone, "#empty h2"))
        ask(phone, "about foxes")
        wait(lambda: finished(phone) and list((tmp_path / "chats").glob("*.json")))

        open_page(desk, server, n_models=1)
        wait(lambda: texts(desk, "#chats .name") == ["about foxes"])
        click(desk, "[data-open]")
        assert answer(desk) == answer(phone)
        assert "The server keeps conversations" in text_of(desk, "#where")
        click(desk, "[data-rename]")
        find(desk, "#chats input")[0].send_keys("Foxes", Keys.ENTER)
        wait(lambda: text_of(desk, "h1") == "Foxes")
        kept = next((tmp_path / "chats").glob("*.json"))
        wait(lambda: "Foxes" in kept.read_text(encoding="utf-8"))

        returned(phone)
        wait(lambda: text_of(phone, "h1") == "Foxes")
        click(phone, "[data-remove]")
        phone.switch_to.alert.accept()
        wait(lambda: "deleted" in kept.read_text(encoding="utf-8"))
        returned(desk)
        wait(lambda: texts(desk, "#chats .name") == [] and text_of(desk, "h1") == "New conversation")
        assert faults(phone) == faults(desk) == []
