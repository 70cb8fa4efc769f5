"""The page in a real browser, at the size of a phone and of a desk: needs Chromium and its driver."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import ServerSettings
from tests.support.http_server import Running, running, until_idle
from tests.support.references import official_gguf, unpacked
from tests.support.tiny_model import TEMPLATE, write_tiny_model

__all__ = ["unpacked"]

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

OPTIONS = LoadOptions(backend="interpreter", context=192, parallel=2)
SIZES = {"phone": (390, 844), "desk": (1280, 800)}
TOKEN_S = 0.03


@pytest.fixture(scope="module")
def server(unpacked: Path) -> Iterator[Running]:
    """A server with answers long enough to be watched and stopped; none ends by itself."""
    models = [("tiny", official_gguf("llama", unpacked)), ("other", official_gguf("llama", unpacked))]
    with running(models, OPTIONS) as started:
        for loaded in started.service.models.loaded:
            backend = loaded.model.backend
            ends = sorted(loaded.model.tokenizer.eog_ids)

            def slow(*arrays: Any, step: Any = backend.step, ends: list[int] = ends) -> Any:
                time.sleep(TOKEN_S)
                logits = step(*arrays)
                np.asarray(logits)[:, ends] = -np.inf
                return logits

            backend.step = slow  # type: ignore[method-assign, assignment]
        yield started


@pytest.fixture(params=SIZES)
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WebDriver]:
    with open_browser(request.param, tmp_path) as driver:
        yield driver
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]


def open_browser(size: str, folder: Path) -> WebDriver:
    options = webdriver.ChromeOptions()
    assert CHROMIUM is not None
    options.binary_location = CHROMIUM
    width, height = SIZES[size]
    for argument in ("--headless=new", "--no-sandbox", f"--window-size={width},{height}", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    if size == "phone":
        metrics = {"width": width, "height": height, "pixelRatio": 2.0, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def find(browser: WebDriver, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Value of the condition once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def open_page(browser: WebDriver, server: Running) -> None:
    browser.get(server.url)
    wait(lambda: len(find(browser, "#model option")) == 2)


def ask(browser: WebDriver, text: str) -> None:
    (box,) = find(browser, "#input")
    (button,) = find(browser, "#send")
    box.send_keys(text)
    button.click()


def text_of(browser: WebDriver, selector: str) -> str:
    """Text of the last such element, read in one go, because the page redraws itself as answers come."""
    script = "return [...document.querySelectorAll(arguments[0])].at(-1)?.textContent ?? ''"
    return str(browser.execute_script(script, selector))


def answer(browser: WebDriver) -> str:
    return text_of(browser, ".message.assistant .body")


def finished(browser: WebDriver) -> bool:
    return find(browser, "#send")[0].text == "Send" and not find(browser, ".busy")


def test_an_answer_streams_stops_and_is_found_again(browser: WebDriver, server: Running) -> None:
    open_page(browser, server)
    browser.execute_script(
        """
        window.speeds = [];
        new MutationObserver(() => {
          const shown = document.querySelector(".busy .stats")?.textContent;
          if (shown) window.speeds.push(shown);
        }).observe(document.getElementById("messages"), { childList: true, subtree: true });
        """
    )
    ask(browser, "hello")
    early = wait(lambda: find(browser, ".busy .body") and answer(browser))
    later = wait(lambda: (text := answer(browser)) != early and text)
    assert len(later) > len(early)
    find(browser, "#send")[0].click()
    assert until_idle(server, 3.0) < 20
    wait(lambda: finished(browser))
    assert "stopped" in text_of(browser, ".stats")
    speeds = browser.execute_script("return window.speeds")
    assert speeds
    assert [speed for speed in speeds if not re.fullmatch(r"about \d+\.\d tok/s", speed)] == []
    stopped = answer(browser)

    browser.refresh()
    wait(lambda: len(find(browser, "#model option")) == 2)
    assert answer(browser) == stopped
    assert find(browser, "h1")[0].text == "hello"

    find(browser, "[data-action=again]")[0].click()
    wait(lambda: find(browser, ".busy"))
    wait(lambda: finished(browser))
    assert "tok/s" in text_of(browser, ".stats")
    assert len(find(browser, ".message.assistant")) == 1


def test_conversations_are_kept_apart(browser: WebDriver, server: Running) -> None:
    open_page(browser, server)
    browser.execute_script(
        """
        for (const [id, changed] of [["a", 1], ["b", 2]]) {
          const messages = [{ role: "user", content: id }, { role: "assistant", content: id }];
          const chat = { id, title: "chat " + id, changed, messages };
          localStorage.setItem("edgellm.chat." + id, JSON.stringify(chat));
        }
        """
    )
    browser.refresh()
    wait(lambda: find(browser, "h1")[0].text == "chat b")
    menu = find(browser, "#menu")[0]
    if menu.is_displayed():
        assert not find(browser, "#chats")[0].is_displayed()
        menu.click()
    wait(lambda: find(browser, "[data-open=a]")[0].is_displayed())
    time.sleep(0.3)  # the list slides in
    find(browser, "[data-open=a]")[0].click()
    wait(lambda: find(browser, "h1")[0].text == "chat a")
    assert answer(browser) == "a"
    if menu.is_displayed():
        time.sleep(0.3)
        menu.click()
        time.sleep(0.3)
    find(browser, "[data-remove=a]")[0].click()
    browser.switch_to.alert.accept()
    wait(lambda: find(browser, "h1")[0].text == "New conversation")
    assert len(find(browser, "#chats li")) == 1


def test_settings_are_sent_and_kept(browser: WebDriver, server: Running) -> None:
    open_page(browser, server)
    browser.execute_script(
        """
        const settings = { max_tokens: 3, temperature: 0, model: "other", theme: "dark", system: "brief" };
        localStorage.setItem("edgellm.settings", JSON.stringify(settings));
        """
    )
    browser.refresh()
    wait(lambda: len(find(browser, "#model option")) == 2)
    assert find(browser, "#model")[0].get_property("value") == "other"
    ask(browser, "hello")
    wait(lambda: finished(browser) and text_of(browser, ".stats"))
    assert "3 tokens" in text_of(browser, ".stats")
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_script("document.getElementById('open-settings').click()")
    theme = find(browser, "[name=theme]")[0]
    assert theme.get_property("value") == "dark"
    Select(theme).select_by_value("light")
    find(browser, "dialog button")[0].click()
    colour = "return getComputedStyle(document.body).backgroundColor"
    wait(lambda: browser.execute_script(colour) != dark)
    assert browser.execute_script("return JSON.parse(localStorage['edgellm.settings']).max_tokens") == 3
    wide = "return document.documentElement.scrollWidth <= innerWidth"
    assert browser.execute_script(wide)


def test_a_prompt_beyond_the_context_is_explained(browser: WebDriver, server: Running) -> None:
    open_page(browser, server)
    browser.execute_script("document.getElementById('input').value = 'word '.repeat(300)")
    find(browser, "#send")[0].click()
    wait(lambda: "context holds 192" in find(browser, "#notice")[0].text)
    assert find(browser, "[data-action=again]")[0].text == "Try again"
    # The browser itself logs every refused request.
    assert "400" in browser.get_log("browser")[0]["message"]  # type: ignore[no-untyped-call]


def test_the_keyboard_is_enough(server: Running, tmp_path: Path) -> None:
    with open_browser("desk", tmp_path) as browser:
        open_page(browser, server)
        browser.switch_to.active_element.send_keys(
            "one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two", Keys.ENTER
        )
        wait(lambda: find(browser, ".busy .body") and answer(browser))
        assert find(browser, ".message.user .body")[0].text == "one\ntwo"
        browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        wait(lambda: finished(browser))
        browser.switch_to.active_element.send_keys(Keys.ALT, "n")
        wait(lambda: find(browser, "h1")[0].text == "New conversation")


def test_thoughts_are_shown_apart(tmp_path: Path) -> None:
    template = TEMPLATE.replace("assistant: ", "assistant: <think>")
    model = write_tiny_model(tmp_path / "thinking.gguf", template=template)
    with running([("tiny", model)], OPTIONS) as server, open_browser("desk", tmp_path) as browser:
        browser.get(server.url)
        wait(lambda: len(find(browser, "#model option")) == 1)
        ask(browser, "hello")
        wait(lambda: text_of(browser, ".thoughts p"))


def test_a_server_with_a_key_asks_for_it(unpacked: Path, tmp_path: Path) -> None:
    settings = ServerSettings(port=0, api_keys=("secret",))
    models = [("tiny", official_gguf("llama", unpacked))]
    with running(models, OPTIONS, settings) as server, open_browser("phone", tmp_path) as browser:
        browser.get(server.url)
        (key,) = find(browser, "[name=key]")
        wait(key.is_displayed)
        key.send_keys("secret", Keys.ENTER)
        wait(lambda: len(find(browser, "#model option")) == 1)
        assert not find(browser, "#notice")[0].is_displayed()


MARKDOWN = """\
# A *title*

Some **bold**, `code <b>`, ~~gone~~ and [a link](https://example.org/a_b).
second line

1. one
2. two
   - deeper

> quoted

| a | b |
|---|---|
| 1 | `2` |

```python
x = "<script>"
```
"""
HOSTILE = """\
<script>window.hurt = 1</script><img src=x onerror="window.hurt = 1">
[click](javascript:alert(1)) [data](data:text/html,<script>1</script>) ![pixel](https://example.org/p.png)
<a href="javascript:1" onclick="1">x</a>
"""


def render(browser: WebDriver, text: str) -> str:
    script = (
        "const done = arguments[1]; import('/page/markdown.js').then(({ markdown }) => {"
        " const box = document.createElement('div'); box.append(...markdown(arguments[0]));"
        " document.body.append(box); done(box.innerHTML); box.remove(); }, (error) => done(String(error)))"
    )
    return str(browser.execute_async_script(script, text))


def test_markdown_becomes_nodes_and_nothing_else_does(server: Running, tmp_path: Path) -> None:
    with open_browser("desk", tmp_path) as browser:
        browser.get(server.url)
        shown = render(browser, MARKDOWN)
        for part in (
            "<h2>A <em>title</em></h2>",
            "<p>Some <strong>bold</strong>, <code>code &lt;b&gt;</code>, <del>gone</del> and ",
            'href="https://example.org/a_b" target="_blank" rel="noopener noreferrer">a link</a>',
            ".<br>second line</p>",
            '<ol start="1"><li>one</li><li>two<ul><li>deeper</li></ul></li></ol>',
            "<blockquote><p>quoted</p></blockquote>",
            "<thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>2</code></td></tr></tbody>",
            '<span>python</span><button type="button" data-action="copy-code">Copy</button></div>'
            '<pre><code>x = "&lt;script&gt;"</code></pre>',
        ):
            assert part in shown
        hostile = render(browser, HOSTILE)
        assert "<script" not in hostile
        assert "<img" not in hostile
        assert hostile.count("<a ") == 1
        assert 'href="https://example.org/p.png"' in hostile
        assert browser.execute_script("return window.hurt === undefined")
        for text in (
            "*" * 50_000,
            "[" * 50_000,
            "> " * 5_000,
            "- " * 5_000,
            "|" * 50_000 + "\n|-",
            "`" * 50_000,
        ):
            begin = time.monotonic()
            render(browser, text)
            assert time.monotonic() - begin < 5
