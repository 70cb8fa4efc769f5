"""The page in a real browser, at the size of a phone and of a desk: needs Chromium and its driver."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgellm.engine.load_options import LoadOptions
from tests.support.browser import (
    OPTIONS,
    SIZES,
    WebDriver,
    answer,
    ask,
    chat_of,
    click,
    faults,
    find,
    finished,
    keep,
    open_browser,
    open_page,
    slow_server,
    stopped,
    text_of,
    texts,
    wait,
)
from tests.support.cable import Cable
from tests.support.http_server import Running, running, until_idle
from tests.support.pdf import pdf
from tests.support.references import official_gguf, unpacked
from tests.support.tiny_model import TEMPLATE, tiny_builder, write_tiny_model

from selenium.webdriver.common.keys import Keys  # isort: skip
from selenium.webdriver.support.select import Select  # isort: skip

__all__ = ["unpacked"]


@pytest.fixture(scope="module")
def server(unpacked: Path) -> Iterator[Running]:
    model = official_gguf("llama", unpacked)
    with slow_server([("tiny", model), ("other", model)]) as started:
        yield started


@pytest.fixture(params=SIZES)
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WebDriver]:
    with open_browser(request.param, tmp_path) as driver:
        yield driver
        assert faults(driver) == []


@pytest.fixture(scope="module")
def opened(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with open_browser("desk", tmp_path_factory.mktemp("desk")) as driver:
        yield driver


@pytest.fixture
def desk(opened: WebDriver, server: Running) -> WebDriver:
    """A browser on a desk, as it is at a first visit."""
    opened.get(f"{server.url}/page/icon.svg")
    opened.execute_script("localStorage.clear()")
    faults(opened)
    return opened


def begins(text: str, part: str) -> bool:
    """True if an answer's letters begin with those of an earlier part.

    The model's text is random: marks of Markdown that stand alone at first vanish when their pair comes.
    """

    def letters(of: str) -> str:
        return re.sub(r"[\W\d_]", "", of)

    return letters(text).startswith(letters(part))


def test_an_answer_streams_stops_and_is_found_again(browser: WebDriver, server: Running) -> None:
    open_page(browser, server)
    assert text_of(browser, "#empty h2") == "tiny"
    assert len(find(browser, ".tries button")) == 3
    browser.execute_script(
        """
        window.speeds = [];
        new MutationObserver(() => {
          const shown = document.querySelector(".busy .stats")?.textContent;
          if (shown?.includes("tok/s")) window.speeds.push(shown);
        }).observe(document.getElementById("messages"), { childList: true, subtree: true });
        """
    )
    ask(browser, "hello")
    early = wait(lambda: find(browser, ".busy .words") and answer(browser))
    later = wait(lambda: (text := answer(browser)) != early and text)
    assert len(later) > len(early)
    stopped(browser)
    assert until_idle(server, 3.0) < 20
    assert text_of(browser, ".half").startswith("Stopped.")
    figures = r"tiny · \d+ tokens · \d+\.\d tok/s · first after \d+\.\d s"
    assert re.fullmatch(figures, text_of(browser, ".stats"))
    speeds = browser.execute_script("return window.speeds")
    assert speeds
    assert [speed for speed in speeds if not re.fullmatch(r"about \d+\.\d tok/s", speed)] == []
    half = answer(browser)
    wide = "return document.documentElement.scrollWidth <= innerWidth"
    assert browser.execute_script(wide)

    browser.refresh()
    wait(lambda: len(find(browser, "#model option")) == 2)
    assert answer(browser) == half
    assert find(browser, "h1")[0].text == "hello"
    wait(lambda: re.fullmatch(r"Context \d+ % full, of 192 tokens", text_of(browser, "#room")))

    click(browser, "[data-action=again]")
    stopped(browser)
    assert len(find(browser, ".message.assistant")) == 1
    assert text_of(browser, ".versions") == "‹2 / 2›"
    assert text_of(browser, "#spoken").startswith("Answer: ")
    click(browser, ".versions button:first-child")
    assert answer(browser) == half


def test_an_answer_goes_on_while_the_page_is_away(desk: WebDriver, server: Running) -> None:
    with closing(Cable(server.port)) as cable:
        desk.get(cable.url)
        wait(lambda: len(find(desk, "#model option")) == 2)
        ask(desk, "hello")
        early = wait(lambda: find(desk, ".busy .words") and answer(desk))
        desk.refresh()
        later = wait(lambda: find(desk, ".busy .words") and len(answer(desk)) > len(early) and answer(desk))
        assert begins(later, early)
        cable.cut()
        wait(lambda: text_of(desk, ".busy .stats") == "Connection lost, trying again")
        cable.mend()
        wait(lambda: len(answer(desk)) > len(later))
        # Another conversation does not end it either.
        click(desk, "#new-chat")
        click(desk, "[data-open]")
        wait(lambda: find(desk, ".busy .words") and begins(answer(desk), later))
        stopped(desk)
        assert not find(desk, "#notice")[0].is_displayed()
        assert begins(answer(desk), later)
    assert until_idle(server, 3.0) < 20


def test_an_answer_that_a_server_has_forgotten_stays_half(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    half = chat_of("a", "tell", "Once upon a time")
    half["messages"][1]["answerId"] = "of-another-start"
    keep(desk, half)
    wait(lambda: text_of(desk, ".half").startswith("The connection was lost"))
    assert "of-another-start" not in text_of(desk, "#notice")
    assert answer(desk) == "Once upon a time"


def test_what_has_come_of_an_answer_is_kept_when_the_page_goes(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    ask(desk, "hello")
    script = (
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')); delete document.hidden;"
        "const shown = document.querySelector('.busy .words')?.textContent ?? '';"
        "const kept = Object.keys(localStorage).filter((name) => name.startsWith('edgellm.chat.'));"
        "return [shown, JSON.parse(localStorage[kept[0]]).messages.at(-1).content];"
    )
    _, kept = wait(lambda: (pair := desk.execute_script(script))[0] and pair)
    assert kept  # without the page's going it would be kept after a second
    stopped(desk)


def test_a_half_answer_goes_on(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    ask(desk, "hello")
    stopped(desk)
    half = answer(desk)
    click(desk, "[data-action=continue]")
    wait(lambda: find(desk, ".busy") and len(answer(desk)) > len(half))
    stopped(desk)
    assert begins(answer(desk), half)
    assert len(find(desk, ".message.assistant")) == 1


def test_a_question_is_changed_and_both_versions_stay(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    keep(desk, chat_of("a", "first", "one", "second", "two"), settings={"max_tokens": 3})
    wait(lambda: len(find(desk, "#model option")) == 2)
    desk.execute_script("document.querySelector('[data-action=edit]').click()")
    (area,) = find(desk, ".editor")
    area.send_keys(" changed")
    click(desk, "[data-action=save-edit]")
    wait(lambda: finished(desk) and len(find(desk, ".message")) == 2)
    assert text_of(desk, ".message.user .body") == "first changed"
    assert text_of(desk, ".message.user .versions") == "‹2 / 2›"
    assert text_of(desk, ".half").startswith("Cut off at the limit")
    click(desk, ".message.user .versions button:first-child")
    assert texts(desk, ".message.user .body") == ["first", "second"]
    desk.refresh()
    assert answer(desk) == "two"
    desk.execute_script("document.querySelector('[data-action=edit]').click()")
    find(desk, ".editor")[0].send_keys(Keys.ESCAPE)
    assert not find(desk, ".editor")


def test_conversations_are_kept_apart(browser: WebDriver, server: Running) -> None:
    open_page(browser, server)
    keep(browser, chat_of("a", "a", "a", changed=1), chat_of("b", "b", "b", changed=2))
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


def test_conversations_are_found_renamed_saved_and_brought_back(
    desk: WebDriver, server: Running, tmp_path: Path
) -> None:
    open_page(desk, server)
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    desk.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    keep(desk, chat_of("a", "about foxes", "red"), chat_of("b", "about bears", "brown", changed=2))
    (search,) = find(desk, "#search")
    search.send_keys("RED fox")
    wait(lambda: texts(desk, "#chats .name") == ["chat a"])
    search.clear()
    search.send_keys("wolves")
    wait(lambda: find(desk, "#none-found")[0].is_displayed())
    search.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
    wait(lambda: len(find(desk, "#chats .name")) == 2)
    click(desk, "[data-rename=b]")
    (field,) = find(desk, "#chats input")
    field.send_keys("Bears", Keys.ENTER)  # the old name is selected
    wait(lambda: find(desk, "h1")[0].text == "Bears")

    click(desk, "#export")
    saved = wait(lambda: next(tmp_path.glob("edgellm-conversations.json"), None))
    wait(lambda: saved.stat().st_size)
    assert [chat["title"] for chat in json.loads(saved.read_text())["chats"]] == ["Bears", "chat a"]
    click(desk, "#delete-all")
    desk.switch_to.alert.accept()
    wait(lambda: find(desk, "#chats li") == [])
    assert find(desk, "h1")[0].text == "New conversation"
    (files,) = find(desk, "#import-file")
    files.send_keys(str(saved))
    wait(lambda: len(find(desk, "#chats li")) == 2)
    assert text_of(desk, "#notice") == "2 conversations imported."
    (tmp_path / "other.json").write_text('{"format": "edgellm-chats", "chats": [{"id": 1}]}')
    files.send_keys(str(tmp_path / "other.json"))
    wait(lambda: "holds no conversations" in text_of(desk, "#notice"))
    assert faults(desk) == []


def test_settings_are_sent_and_kept(browser: WebDriver, server: Running) -> None:
    open_page(browser, server)
    settings = {"max_tokens": 3, "temperature": 0, "model": "other", "theme": "dark", "system": "brief"}
    keep(browser, settings=settings)
    wait(lambda: len(find(browser, "#model option")) == 2)
    assert find(browser, "#model")[0].get_property("value") == "other"
    assert re.search(r"other · .*(kB|MB) · loaded", find(browser, "#model option")[1].text)
    ask(browser, "hello")
    wait(lambda: finished(browser) and text_of(browser, ".stats"))
    assert "3 tokens" in text_of(browser, ".stats")
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    # Esc changes nothing, whatever stands in the fields.
    browser.execute_script("document.getElementById('open-settings').click()")
    theme, limit = find(browser, "[name=theme]")[0], find(browser, "[name=max_tokens]")[0]
    assert theme.get_property("value") == "dark"
    limit.clear()
    limit.send_keys("-5", Keys.ESCAPE)
    wait(lambda: not find(browser, "#settings[open]"))
    assert browser.execute_script("return JSON.parse(localStorage['edgellm.settings']).max_tokens") == 3
    browser.execute_script("document.getElementById('open-settings').click()")
    Select(theme).select_by_value("light")
    find(browser, "#settings .primary")[0].click()
    colour = "return getComputedStyle(document.body).backgroundColor"
    wait(lambda: browser.execute_script(colour) != dark)
    assert browser.execute_script("return JSON.parse(localStorage['edgellm.settings']).max_tokens") == 3


def test_a_prompt_beyond_the_context_is_explained(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    desk.execute_script("document.getElementById('input').value = 'word '.repeat(300)")
    find(desk, "#send")[0].click()
    wait(lambda: "context holds 192" in find(desk, "#notice")[0].text)
    assert find(desk, "[data-action=again]")[0].text == "Try again"
    # The browser itself logs every refused request.
    assert any("400" in fault for fault in faults(desk))


@pytest.mark.parametrize("full", ["", "ask"])
def test_a_full_context_leaves_out_the_oldest_messages(desk: WebDriver, server: Running, full: str) -> None:
    open_page(desk, server)
    long = ["word " * 12, "more " * 12] * 4
    keep(desk, chat_of("a", *long), settings={"max_tokens": 3, "full": full})
    wait(lambda: len(find(desk, "#model option")) == 2)
    ask(desk, "and now")
    if full:
        offer = wait(lambda: find(desk, "#notice button"))[0]
        assert offer.text == "Leave out the oldest messages"
        offer.click()
    wait(lambda: finished(desk) and text_of(desk, ".stats"))
    assert not find(desk, "#notice")[0].is_displayed()
    shown = re.fullmatch(r".* no longer sees the (\d) messages above\.", text_of(desk, ".dropped"))
    assert shown
    assert len(find(desk, ".message")) == 10
    before = desk.execute_script(
        "return [...document.getElementById('messages').children].findIndex((one) => one.matches('.dropped'))"
    )
    assert before == int(shown[1])
    assert before % 2 == 0  # a question comes first


def test_text_files_go_with_a_message(desk: WebDriver, server: Running, tmp_path: Path) -> None:
    open_page(desk, server)
    keep(desk, settings={"max_tokens": 2})
    wait(lambda: re.search("tiny", text_of(desk, "#empty h2")))
    (notes, binary, long) = (tmp_path / name for name in ("notes.txt", "photo.bin", "long.txt"))
    notes.write_text("mind the gap")
    binary.write_bytes(b"\x00\xff\x00")
    long.write_text("word " * 2000)
    (field,) = find(desk, "#file")
    wait(
        lambda: desk.execute_async_script("import('/page/models.js').then((m) => arguments[0](m.context()))")
    )

    def refused(name: str) -> bool:
        return name in text_of(desk, "#notice")

    for path in (binary, long, notes):
        field.send_keys(str(path))
        if path is not notes:
            wait(partial(refused, path.name))
    wait(lambda: [one.split()[0] for one in texts(desk, "#files .file")] == ["notes.txt"])
    ask(desk, "read it")
    wait(lambda: finished(desk) and text_of(desk, ".stats"))
    stored = desk.execute_script(
        "return Object.entries(localStorage).find(([key]) => key.includes('chat'))[1]"
    )
    assert json.loads(stored)["messages"][0]["files"] == [{"name": "notes.txt", "text": "mind the gap"}]
    assert text_of(desk, ".message.user .file") == "notes.txt (12 B)"
    assert faults(desk) == []


def test_pdf_files_are_read_as_text(desk: WebDriver, server: Running, tmp_path: Path) -> None:
    open_page(desk, server)
    keep(desk, settings={"max_tokens": 2})
    wait(lambda: re.search("tiny", text_of(desk, "#empty h2")))
    contents = {
        "talk.pdf": pdf(["Mind the gap", "and the step"]),
        "scan.pdf": pdf(["", ""]),
        "long.pdf": pdf(["word " * 200] * 9),
        "broken.pdf": b"%PDF-1.4 nothing",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (field,) = find(desk, "#file")
    wait(
        lambda: desk.execute_async_script("import('/page/models.js').then((m) => arguments[0](m.context()))")
    )

    def refused(sentence: str) -> bool:
        return re.fullmatch(sentence, text_of(desk, "#notice")) is not None

    for name, says in (
        ("scan.pdf", "holds no text; pictures of pages cannot be read."),
        ("long.pdf", r"is too long: page \d of 9 is beyond 576 B, and the model holds about 576 B of text."),
        ("broken.pdf", "is damaged, or no PDF file."),
    ):
        field.send_keys(str(tmp_path / name))
        wait(partial(refused, f"{name} {says}"))
    field.send_keys(str(tmp_path / "talk.pdf"))
    wait(lambda: texts(desk, "#files .file"))
    ask(desk, "read it")
    wait(lambda: finished(desk) and text_of(desk, ".stats"))
    stored = desk.execute_script(
        "return Object.entries(localStorage).find(([key]) => key.includes('chat'))[1]"
    )
    file = {"name": "talk.pdf", "text": "Mind the gap\n\nand the step"}
    assert json.loads(stored)["messages"][0]["files"] == [file]
    assert faults(desk) == []


def test_the_keyboard_is_enough(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    desk.switch_to.active_element.send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two", Keys.ENTER)
    wait(lambda: find(desk, ".busy .words") and answer(desk))
    assert find(desk, ".message.user .body")[0].text == "one\ntwo"
    desk.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(lambda: finished(desk))
    desk.switch_to.active_element.send_keys(Keys.ALT, "n")
    wait(lambda: find(desk, "h1")[0].text == "New conversation")


def test_a_selection_survives_and_the_end_is_found_again(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    keep(desk, chat_of("a", "x", "line\n\n" * 60, "y", "short"))
    wait(lambda: len(find(desk, "#model option")) == 2)
    assert not find(desk, "#to-end")[0].is_displayed()
    desk.execute_script("document.getElementById('messages').scrollTop = 0")
    wait(lambda: find(desk, "#to-end")[0].is_displayed())
    find(desk, "#to-end")[0].click()
    wait(lambda: not find(desk, "#to-end")[0].is_displayed())
    script = (
        "const done = arguments[0]; import('/page/view.js').then(({ fill }) => {"
        " const body = document.createElement('div'); document.body.append(body);"
        " const message = { role: 'assistant', content: 'one\\n\\ntwo', thoughts: 'a' }; fill(body, message);"
        " const kept = body.querySelector('p:not(.thoughts p)'); const box = body.querySelector('details');"
        " box.firstChild.click(); box.open = true; message.content += ' three'; message.thoughts += 'b';"
        " fill(body, message);"
        " done([kept.isConnected, box.open, body.querySelector('.words').textContent]); })"
    )
    assert desk.execute_async_script(script) == [True, True, "onetwo three"]


def test_a_short_conversation_has_no_button_to_its_end(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    keep(desk, chat_of("long", "q", "line\n\n" * 60, changed=2), chat_of("short", "q", "a"))
    wait(lambda: len(find(desk, "#model option")) == 2)
    desk.execute_script("document.getElementById('messages').scrollTop = 0")
    (to_end,) = find(desk, "#to-end")
    wait(to_end.is_displayed)
    click(desk, "[data-open=short]")
    assert not to_end.is_displayed()


def test_a_selection_outlives_the_end_of_an_answer(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    ask(desk, "select me")
    wait(lambda: find(desk, ".busy .words") and answer(desk))
    desk.execute_script("getSelection().selectAllChildren(document.querySelector('.message.user .body'))")
    stopped(desk)
    assert desk.execute_script("return String(getSelection())") == "select me"
    assert text_of(desk, ".message.assistant footer").startswith("CopyRegenerate")


def test_a_model_that_has_gone_is_named(desk: WebDriver, server: Running) -> None:
    open_page(desk, server)
    desk.execute_script("document.getElementById('model').value = 'other'")
    models = server.service.models
    source = models._sources.pop("other")
    try:
        ask(desk, "hello")
        wait(lambda: "no model 'other'" in text_of(desk, "#notice"))
        wait(lambda: len(find(desk, "#model option")) == 1)  # the list is what there is by now
    finally:
        models._sources["other"] = source


def test_thoughts_are_shown_apart(tmp_path: Path) -> None:
    template = TEMPLATE.replace("assistant: ", "assistant: <think>")
    model = write_tiny_model(tmp_path / "thinking.gguf", template=template)
    with running([("tiny", model)], OPTIONS) as server, open_browser("desk", tmp_path) as browser:
        open_page(browser, server, n_models=1)
        ask(browser, "hello")
        wait(lambda: text_of(browser, ".thoughts p"))


def test_an_answer_that_repeats_itself_is_ended(tmp_path: Path) -> None:
    builder = tiny_builder(template=f"{TEMPLATE}h", **{"llama.context_length": 4096})
    for tensor in builder.tensors:
        if "attn_output" in str(tensor.name) or "ffn_down" in str(tensor.name):
            tensor.raw = bytes(len(tensor.raw))  # each token is then its own likeliest successor
    model = builder.write(tmp_path / "tiny.gguf")
    options = LoadOptions(backend="native", context=4096)
    with running([("tiny", model)], options) as server, open_browser("desk", tmp_path) as browser:
        backend = server.service.models.loaded[0].model.backend

        def slow(*arrays: Any, step: Any = backend.step) -> Any:
            time.sleep(0.002)
            return step(*arrays)

        backend.step = slow  # type: ignore[method-assign, assignment]
        open_page(browser, server, n_models=1)
        keep(browser, settings={"temperature": 0})
        wait(lambda: len(find(browser, "#model option")) == 1)
        ask(browser, "hello")
        wait(lambda: finished(browser))
        assert text_of(browser, ".half").startswith("Ended, as it only repeated itself.")
        first = len(answer(browser))
        assert 1200 <= first < 4000
        # Going on is a person's choice, and the part before does not count.
        click(browser, "[data-action=continue]")
        wait(lambda: finished(browser) and len(answer(browser)) >= first + 1200)
        assert until_idle(server, 3.0) < 20


def test_a_model_that_is_loaded_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgellm.server.models import ModelManager

    model = write_tiny_model(tmp_path / "tiny.gguf")
    load = ModelManager._load_model

    def slow(*arguments: object) -> object:
        time.sleep(2.5)
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelManager, "_load_model", slow)
    manager = ModelManager([("tiny", model)], OPTIONS, on_demand=True)
    with running([], OPTIONS, manager=manager) as server, open_browser("phone", tmp_path) as browser:
        open_page(browser, server, n_models=1)
        ask(browser, "hello")
        wait(lambda: re.fullmatch(r"Loading tiny, \d s", text_of(browser, ".busy .stats")))
        wait(lambda: finished(browser))
        first = re.search(r"first after (\d+\.\d) s", text_of(browser, ".stats"))
        assert first
        assert float(first[1]) >= 2.4  # the wait of a person, with the loading


def test_a_server_that_has_gone_is_said(unpacked: Path, tmp_path: Path) -> None:
    with open_browser("phone", tmp_path) as browser:
        with slow_server([("tiny", official_gguf("llama", unpacked))]) as server:
            open_page(browser, server, n_models=1)
        ask(browser, "hello")
        wait(lambda: "cannot be reached" in text_of(browser, "#notice"))
        assert find(browser, ".retry button")[0].text == "Try again"
        assert find(browser, ".message.user .body")[0].text == "hello"
