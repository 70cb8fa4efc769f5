"""Markdown, formulas and code on the page, as a browser draws them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.browser import OPTIONS, WebDriver, faults, open_browser
from tests.support.http_server import Running, running
from tests.support.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with running([("tiny", model)], OPTIONS) as started:
        yield started


@pytest.fixture(scope="module")
def browser(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with open_browser("phone", tmp_path_factory.mktemp("browser")) as driver:
        driver.get(server.url)
        yield driver
        assert faults(driver) == []


def render(browser: WebDriver, text: str) -> str:
    script = (
        "const done = arguments[1];"
        "Promise.all(['markdown', 'maths'].map((name) => import(`/page/${name}.js`)))"
        ".then(async ([{ markdown }, { drawn }]) => {"
        " const box = document.createElement('div'); box.className = 'words';"
        " box.append(...markdown(arguments[0]));"
        " await drawn(); document.getElementById('messages').append(box); done(box.innerHTML);"
        " window.box = box; box.remove(); }).catch((error) => done(String(error)))"
    )
    return str(browser.execute_async_script(script, text))


MARKDOWN = """\
# A *title*

Some **bold**, `code <b>`, ~~gone~~ and [a link](https://example.org/a_b).
second line

1. one
2. two
   - deeper

> quoted

```
x = "<script>"
```
"""
HOSTILE = """\
<script>window.hurt = 1</script><img src=x onerror="window.hurt = 1">
[click](javascript:alert(1)) [data](data:text/html,<script>1</script>) ![pixel](https://example.org/p.png)
<a href="javascript:1" onclick="1">x</a> &lt;script&gt; $\\href{javascript:alert(1)}{x}$ $\\html$
$\\def\\a{\\a\\a}\\a$ $\\includegraphics{https://example.org/p.png}$
"""
# Markdown, and the part of the page that it must become.
CASES = [
    ("***both***", "<p><strong><em>both</em></strong></p>"),
    ("**bold *nested***", "<p><strong>bold <em>nested</em></strong></p>"),
    ("*em **strong** on*", "<p><em>em <strong>strong</strong> on</em></p>"),
    ("2 * 3 * 4 and snake_case_name", "<p>2 * 3 * 4 and snake_case_name</p>"),
    ("a &amp; b &lt;c&gt; &mdash; &#39; &#x41; &unknown;", "<p>a &amp; b &lt;c&gt; — ' A &amp;unknown;</p>"),
    ("- [x] milk\n- [ ] bread", '<input type="checkbox" disabled="" checked="" aria-label="done">milk</li>'),
    ("- [ ] bread", '<li class="task"><input type="checkbox" disabled="" aria-label="to do">bread</li>'),
    ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    ("#### four\n###### six", '<h5 aria-level="2">four</h5><h6 aria-level="3">six</h6>'),
    ("# one\n\n> ### three\n\n## two", '<h4 aria-level="3">three</h4></blockquote><h3>two</h3>'),
    ("It costs $5 and $10.", "<p>It costs $5 and $10.</p>"),
    ("1. a:\n   ```\n   x\n     y\n   ```\n2. b", "<code>x\n  y</code></pre></div></li><li>b</li></ol>"),
    ("10. a:\n    ```\n    x\n    ```", "<code>x</code>"),
    ("- a:\n  ```\n  x\n  ```", "<code>x</code>"),
    ("1. one\n  - two", "<ol start=\"1\"><li>one<ul><li>two</li></ul></li></ol>"),
    ("\\*no\\* \\$5\\$", "<p>*no* $5$</p>"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "part"), CASES)
def test_markdown_is_drawn(browser: WebDriver, text: str, part: str) -> None:
    assert part in render(browser, text)


def test_markdown_becomes_nodes_and_nothing_else_does(browser: WebDriver) -> None:
    shown = render(browser, MARKDOWN)
    for part in (
        "<h2>A <em>title</em></h2>",
        "<p>Some <strong>bold</strong>, <code>code &lt;b&gt;</code>, <del>gone</del> and ",
        'href="https://example.org/a_b" target="_blank" rel="noopener noreferrer">a link</a>',
        ".<br>second line</p>",
        '<ol start="1"><li>one</li><li>two<ul><li>deeper</li></ul></li></ol>',
        "<blockquote><p>quoted</p></blockquote>",
        '<code>x = "&lt;script&gt;"</code></pre>',
    ):
        assert part in shown
    hostile = render(browser, HOSTILE)
    assert "<script" not in hostile
    assert "<img" not in hostile
    assert hostile.count("<a ") == 1
    assert 'href="https://example.org/p.png"' in hostile
    assert "javascript:alert(1)" in hostile  # as text
    assert browser.execute_script("return window.hurt === undefined")


def test_tables_have_sides_and_pipes_and_do_not_break_in_words(browser: WebDriver) -> None:
    table = (
        "| Method | Time | Where |\n|:--|--:|:-:|\n| incomprehensibility | a \\| b | x<br>y |\n"
        "| `O(n)` | $n^2$ | internationalization |"
    )
    shown = render(browser, table)
    assert '<th>Method</th><th class="right">Time</th><th class="center">Where</th>' in shown
    assert '<td class="right">a | b</td><td class="center">x<br>y</td>' in shown
    assert "<td><code>O(n)</code></td>" in shown
    height = (
        "document.getElementById('messages').append(window.box);"
        "const height = window.box.querySelector('td').clientHeight;"
        "const fits = document.documentElement.scrollWidth <= innerWidth;"
        "window.box.remove(); return [height, fits]"
    )
    found, fits = browser.execute_script(height)
    assert found < 90  # a phone's width holds the long word in one line, and the table scrolls
    assert fits


def test_formulas_become_mathml(browser: WebDriver) -> None:
    shown = render(
        browser,
        "Roots $x = \\frac{-b}{2a}$ and \\(e^{i\\pi}\\).\n\n$$\n\\int_0^1 x\\,dx\n$$\n\n"
        "\\[ a \\\\ b \\]\n\n$$c$$",
    )
    assert shown.count("<math") == 5
    assert shown.count('class="formula display"') == 3
    assert "<mfrac>" in shown
    assert "<msubsup>" in shown
    wrong = render(browser, "$\\nosuchcommand{x}$ and $$\\frac{$$")
    assert "<math" not in wrong
    assert "\\nosuchcommand{x}" in wrong


def test_code_has_colours_and_its_own_text(browser: WebDriver) -> None:
    code = 'def f(x):  # a "comment"\n    return "it\'s" + str(0x1F)\n'
    shown = render(browser, f"```python\n{code}```")
    for part in (
        '<span class="c-word">def</span>',
        '<span class="c-comment"># a "comment"</span>',
        '<span class="c-string">"it\'s"</span>',
        '<span class="c-number">0x1F</span>',
    ):
        assert part in shown
    assert browser.execute_script("return window.box.querySelector('code').textContent") == code.rstrip()
    for language in ("js", "c++", "rust", "go", "bash", "sql", "json", "html", "css", "yaml", "unknown"):
        render(browser, f"```{language}\n{code}```")
        assert browser.execute_script("return window.box.querySelector('code').textContent") == code.rstrip()


@pytest.mark.parametrize(
    "text",
    [
        "*" * 50_000,
        "*a" * 20_000,
        "*a**b**" * 5_000,
        "[" * 50_000,
        "> " * 5_000,
        "- " * 5_000,
        "|" * 50_000 + "\n|-",
        "`" * 50_000,
        "$" * 50_000,
        "$a" * 10_000,
        "$\\" * 10_000,
        "$$\n" * 5_000,
        "\\(" * 20_000,
        "&a" * 20_000,
        "```c\n" + "/*" * 20_000,
        "```python\n" + "'''" * 10_000 + '"' * 10_000,
        "```js\n" + "`\\" * 20_000,
        "$$" + "\\frac{" * 300 + "$$",
    ],
    ids=lambda text: text[:8],
)
def test_hostile_text_costs_little(browser: WebDriver, text: str) -> None:
    begin = time.monotonic()
    render(browser, text)
    assert time.monotonic() - begin < 5
