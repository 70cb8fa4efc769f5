"""Chromium on the chat page; modules that import this are skipped without it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import ServerSettings
from tests.support.http_server import Running, running

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.webdriver import WebDriver as WebDriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

OPTIONS = LoadOptions(backend="interpreter", context=192, parallel=2)
SIZES = {"phone": (390, 844), "desk": (1280, 800)}
TOKEN_S = 0.03


@contextmanager
def slow_server(models: list[tuple[str, Path]], settings: ServerSettings | None = None) -> Iterator[Running]:
    """A server whose answers are long enough to be watched and stopped; none ends by itself."""
    with running(models, OPTIONS, settings) as started:
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


def open_browser(size: str, folder: Path) -> WebDriver:
    """A new browser of a size, with a profile of its own in a folder."""
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


def faults(browser: WebDriver) -> list[str]:
    """Errors of the page since the last call."""
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [str(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]


def find(browser: WebDriver, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def click(browser: WebDriver, selector: str) -> None:
    """Click the last such element, in one go, because the page redraws itself as answers come."""
    browser.execute_script("[...document.querySelectorAll(arguments[0])].at(-1).click()", selector)


def wait(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Value of the condition once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def open_page(browser: WebDriver, server: Running, n_models: int = 2) -> None:
    browser.get(server.url)
    wait(lambda: len(find(browser, "#model option")) == n_models)


def ask(browser: WebDriver, text: str) -> None:
    (box,) = find(browser, "#input")
    (button,) = find(browser, "#send")
    box.send_keys(text)
    button.click()


def text_of(browser: WebDriver, selector: str) -> str:
    """Text of the last such element, read in one go."""
    script = "return [...document.querySelectorAll(arguments[0])].at(-1)?.textContent ?? ''"
    return str(browser.execute_script(script, selector))


def texts(browser: WebDriver, selector: str) -> list[str]:
    """Texts of all such elements, read in one go."""
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
    return list(browser.execute_script(script, selector))


def answer(browser: WebDriver) -> str:
    return text_of(browser, ".message.assistant .words")


def finished(browser: WebDriver) -> bool:
    return find(browser, "#send")[0].text == "Send" and not find(browser, ".busy")


def stopped(browser: WebDriver) -> None:
    """Stop the answer under way."""
    wait(lambda: find(browser, ".busy .words") and answer(browser))
    find(browser, "#send")[0].click()
    wait(lambda: finished(browser))


def keep(browser: WebDriver, *chats: dict[str, Any], settings: dict[str, Any] | None = None) -> None:
    """Put conversations and settings into the browser's storage, and load the page with them."""
    script = """
        const keep = (name, value) => localStorage.setItem("edgellm." + name, JSON.stringify(value));
        for (const chat of arguments[0]) keep("chat." + chat.id, chat);
        if (arguments[1]) keep("settings", arguments[1]);
    """
    browser.execute_script(script, list(chats), settings)
    browser.refresh()


def chat_of(name: str, *texts: str, changed: int = 1) -> dict[str, Any]:
    """A conversation of these texts in turn."""
    messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]
    return {"id": name, "title": f"chat {name}", "changed": changed, "messages": messages}
