"""The HTML report in a real browser: nothing fetched, nothing that keeps anybody from reading it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import report_samples as samples

from safeedit.reports.html import write_html

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGES = {
    "passed": samples.sample,
    "failed": samples.failed,
    "broken": samples.broken,
    "hostile": samples.hostile,
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1100, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1100, "height": 900}},
    "narrow": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=found, headless=True, args=list(QUIET))
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(write_html(make()), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


class Opened:
    """A page, and every request that it made."""

    def __init__(self, browser: Any, path: Path, **look: Any) -> None:
        self.asked: list[str] = []
        self.context = browser.new_context(**look)
        self.context.route("**/*", self._answer)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.goto(path.as_uri())

    def _answer(self, route: Any) -> None:
        self.asked.append(route.request.url)
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()


@pytest.mark.parametrize(
    ("name", "look"),
    [
        *(("passed", look) for look in LOOKS),
        ("failed", "dark"),
        ("broken", "light"),
        ("hostile", "narrow"),
    ],
)
def test_nothing_keeps_anybody_from_reading_it(
    browser: Any, pages: dict[str, Path], name: str, look: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # Axe itself is a script, which the page's own policy would refuse.
    opened = Opened(browser, pages[name], bypass_csp=True, **LOOKS[look])
    assert opened.asked == [pages[name].as_uri()]
    assert opened.messages == []
    found = Axe().run(opened.page).response["violations"]
    grave = [
        (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
    ]
    assert grave == []
    wider = opened.page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wider <= 0, "the page itself scrolls sideways"
    opened.context.close()


def test_axe_would_notice(browser: Any, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    path = tmp_path / "bad.html"
    text = write_html(samples.sample()).replace("--ink: #1c1b19", "--ink: #f3f0e8")
    path.write_text(text.replace('<html lang="en">', "<html>"), encoding="utf-8")
    opened = Opened(browser, path, bypass_csp=True, **LOOKS["light"])
    found = {one["id"]: one["impact"] for one in Axe().run(opened.page).response["violations"]}
    assert found["html-has-lang"] in ("serious", "critical")
    assert found["color-contrast"] == "serious"
    opened.context.close()


def test_the_key_alone_leads_through_the_page(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["passed"], **LOOKS["narrow"])
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    # The browser follows the link after the key is done with: on a busy machine a moment later.
    page.wait_for_url("**#main")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.getAttribute('aria-label') || ''"))
    assert any(label.startswith("Plot:") for label in seen)
    assert any(label.startswith("Table:") for label in seen)
    opened.context.close()


def test_a_screen_reader_is_told_what_the_plots_show(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["passed"], **LOOKS["light"])
    told = opened.page.locator("main").aria_snapshot()
    assert 'img "Forgetting and attacks: how many of the facts were said or found"' in told
    assert "forgetting.direct: 97" in opened.page.locator("svg desc").first.text_content()
    headings = opened.page.locator("h1, h2, h3").evaluate_all("all => all.map(one => +one.tagName[1])")
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    opened.context.close()


def test_it_prints_on_paper(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["passed"], color_scheme="dark")
    page = opened.page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    printed = page.pdf(format="A4", prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    sheets = printed.count(b"/Type /Page\n") or printed.count(b"/Type /Page ")
    assert sheets <= 9
    opened.context.close()


def test_nothing_runs_and_nothing_is_fetched_even_if_it_got_in(browser: Any, tmp_path: Path) -> None:
    """The page's own policy is the second wall, behind escaping."""
    path = tmp_path / "worse.html"
    bad = '<script>document.title = "owned"</script><img src="https://example.invalid/x.png">'
    path.write_text(write_html(samples.sample()).replace("<footer>", f"{bad}<footer>"), encoding="utf-8")
    opened = Opened(browser, path, **LOOKS["light"])
    assert "owned" not in opened.page.title()
    assert opened.asked == [path.as_uri()]
    for _ in range(100):  # what the browser refuses, it tells a moment after the page is there
        if len(opened.messages) >= 2:
            break
        opened.page.wait_for_timeout(50)
    assert len(opened.messages) == 2
    opened.context.close()
