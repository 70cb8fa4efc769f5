"""The key of a server on the page, and what axe-core finds in each of its states."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.server.addresses import link
from edgellm.server.settings import ServerSettings
from tests.support.browser import (
    OPTIONS,
    SIZES,
    WebDriver,
    chat_of,
    click,
    faults,
    find,
    keep,
    open_browser,
    text_of,
    wait,
)
from tests.support.http_server import Running, running
from tests.support.tiny_model import write_tiny_model

from selenium.webdriver.common.keys import Keys  # isort: skip

KEY = "bakol-timur-fesod"
EVERYTHING = (
    "### Three\n\n# One\n## Two\n\n##### Five\n\n"
    "- [x] done\n\n| a | b |\n|--|--:|\n| $x$ | 2 |\n\n> said\n\n---\n\n"
    "```python\nx = 'y'  # z\n```\n\n"
    "$$\\sum_k k$$\n\n[link](https://example.org)"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    settings = ServerSettings(port=0, api_keys=(KEY,))
    with running([("tiny", model)], OPTIONS, settings) as started:
        yield started


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[WebDriver]:
    with open_browser("phone", tmp_path) as driver:
        yield driver


def test_a_server_with_a_key_asks_for_it_in_plain_words(phone: WebDriver, server: Running) -> None:
    phone.get(server.url)
    (key,) = find(phone, "#access input")
    wait(key.is_displayed)
    assert "asks for a key" in find(phone, "#access")[0].text
    assert not find(phone, "#key-wrong")[0].is_displayed()
    key.send_keys("bakol", Keys.ENTER)
    wait(find(phone, "#key-wrong")[0].is_displayed)
    assert "That key was wrong." in find(phone, "#key-wrong")[0].text
    key.send_keys(Keys.ESCAPE)
    assert key.is_displayed()
    key.send_keys(f" {KEY} ", Keys.ENTER)
    wait(lambda: len(find(phone, "#model option")) == 1)
    assert not key.is_displayed()
    assert not find(phone, "#notice")[0].is_displayed()
    phone.refresh()
    wait(lambda: text_of(phone, "#empty h2") == "tiny")


def test_a_device_that_goes_on_with_wrong_keys_is_told_to_wait(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    settings = ServerSettings(port=0, api_keys=(KEY,))
    with (
        running([("tiny", model)], OPTIONS, settings) as server,
        open_browser("phone", tmp_path) as phone,
        server.client(authorization="Bearer guess") as guesser,
    ):
        assert [guesser.get("/v1/models").status_code for _ in range(40)][-1] == 429

        def told_to_wait() -> bool:
            # One key in some seconds is looked at: the page's may be that one if it takes long to load.
            guesser.get("/v1/models")
            phone.get("about:blank")
            phone.get(link(server.url, KEY))
            return "Too many wrong keys" in text_of(phone, "#key-wrong")

        wait(told_to_wait)


def test_a_link_brings_the_key_and_the_address_loses_it(phone: WebDriver, server: Running) -> None:
    phone.get(link(server.url, KEY))
    wait(lambda: text_of(phone, "#empty h2") == "tiny")
    assert phone.current_url == f"{server.url}/"
    phone.get(server.url)
    wait(lambda: text_of(phone, "#empty h2") == "tiny")
    assert faults(phone) == []
    # An old link, and then the right one in the same tab.
    phone.get(link(server.url, "old"))
    wait(lambda: find(phone, "#key-wrong")[0].is_displayed())
    phone.get(link(server.url, KEY))
    wait(lambda: not find(phone, "#access[open]"))
    assert phone.current_url == f"{server.url}/"


def test_the_page_can_be_installed(phone: WebDriver, server: Running) -> None:
    phone.get(link(server.url, KEY))
    found = phone.execute_cdp_cmd("Page.getAppManifest", {})
    assert found["url"] == f"{server.url}/page/manifest.json"
    assert found["errors"] == []
    wrong = phone.execute_cdp_cmd("Page.getInstallabilityErrors", {})
    # A profile without windows is no reason against the page itself.
    assert [one["errorId"] for one in wrong["installabilityErrors"] if one["errorId"] != "in-incognito"] == []


AXE = [Path(folder, "axe-core", "axe.min.js") for folder in os.environ.get("NODE_PATH", "").split(os.pathsep)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(server: Running, tmp_path: Path, size: str, theme: str) -> None:
    source = next((path for path in AXE if path.is_file()), None)
    if source is None:
        pytest.skip("axe-core is not in NODE_PATH")
    with open_browser(size, tmp_path) as browser:

        def check(state: str) -> None:
            browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
            browser.execute_script(source.read_text(encoding="utf-8"))
            script = (
                "const done = arguments[0]; axe.run().then(({ violations, passes }) => done([passes.length,"
                " violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join()}`)]))"
            )
            n_passes, violations = browser.execute_async_script(script)
            assert n_passes > 10
            assert violations == [], state

        browser.get(server.url)
        wait(lambda: find(browser, "#access[open]"))
        check("key")
        find(browser, "#access input")[0].send_keys("x", Keys.ENTER)
        wait(find(browser, "#key-wrong")[0].is_displayed)
        check("wrong key")
        half = {**chat_of("b", "tell", "once", changed=2), "dropped": 2}
        more = {
            "reason": "stopped",
            "thoughts": "hm",
            "versions": [[{"role": "assistant", "content": "x"}], None],
        }
        half["messages"] += half["messages"]
        half["messages"][3] = {**half["messages"][1], **more, "version": 1}
        keep(
            browser,
            chat_of("a", "show", EVERYTHING, "and"),
            half,
            settings={"key": KEY, "theme": theme},
        )
        wait(lambda: len(find(browser, "#model option")) == 1)
        check("half an answer")
        click(browser, "[data-action=edit]")
        check("editor")
        if find(browser, "#menu")[0].is_displayed():
            click(browser, "#menu")
            wait(find(browser, "#search")[0].is_displayed)
        check("list")
        click(browser, "[data-open=a]")
        wait(lambda: find(browser, ".formula math"))
        check("everything")
        click(browser, "#new-chat")
        check("first screen")
        click(browser, "#open-settings")
        check("settings")
        assert [one for one in faults(browser) if not re.search("401", one)] == []
