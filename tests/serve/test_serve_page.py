"""The page at `/` in a browser: documents, a question with and without them, edits; by keyboard, safe from scripts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from served import Serve, Served

api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

HOSTILE = (
    "# <img src=x onerror=\"document.title='owned'\">\n\n"
    "The tower is 42 metres tall. <script>document.title='owned'</script> [click](javascript:alert(1))\n"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser: Any, server: Served, **options: Any) -> tuple[Any, list[str]]:
    """Return the page, and the list of what it complains about."""
    page, faults = browser.new_page(viewport={"width": 1200, "height": 900}, **options), []
    page.set_default_timeout(30_000)
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(server.url) else faults.append(request.url))
    page.goto(server.url)
    return page, faults


def test_a_document_is_pasted_asked_about_and_deleted(browser: Any, serve: Serve, tmp_path: Path) -> None:
    server = serve(edits=tmp_path / "edits")
    page, faults = open_page(browser, server)
    page.fill("#title", "<b>notes.md")
    page.fill("#text", HOSTILE)
    page.click("text=Add text")
    page.wait_for_selector("#files >> text=ready")
    assert page.inner_text("#files li span") == "<b>notes.md"
    page.fill("#question", "How tall is the tower?")
    page.fill("#tokens", "12")
    page.click("#ask-button")
    page.wait_for_selector("text=Done.")
    # What was read is shown as text, and none of it has run.
    assert "<script>document.title='owned'</script>" in page.inner_text("#passages")
    assert page.title() == "diekae" and page.query_selector("#passages img, #passages script, #passages a") is None
    assert page.get_attribute("meter", "aria-label") == "share of attention 100 %"
    assert page.inner_text("#with") != page.inner_text("#without")
    assert "of knowledge read beside it" in page.inner_text("#with-cost")
    assert page.inner_text("#without-cost").endswith("ms")
    assert page.get_attribute("#with", "aria-busy") == "false"
    # Edits.
    for field, text in (
        ("prompt", "The colour of the silver ship is"),
        ("subject", "silver ship"),
        ("target", "<i>red"),
    ):
        page.fill(f"#edit-{field}", text)
    page.click("text=Edit this fact")
    page.wait_for_selector("#edits >> text=<i>red")
    page.click("#edits >> text=Revert")
    page.wait_for_selector("#edits-status >> text=None.")
    page.click("#files >> text=Delete")
    page.wait_for_selector("#files li", state="detached")
    assert page.evaluate("document.activeElement.id") == "documents-title"
    assert not faults


def test_files_are_uploaded_and_errors_shown(browser: Any, server: Served, tmp_path: Path) -> None:
    page, faults = open_page(browser, server)
    good, broken = tmp_path / "ship.txt", tmp_path / "broken.json"
    good.write_text("The ship is silver.")
    broken.write_text("{")
    page.set_input_files("#file", [str(good), str(broken)])
    page.wait_for_selector("#files >> text=ready")
    page.wait_for_selector("#files .bad >> text=broken.json")
    page.set_input_files("#file", {"name": "a.exe", "mimeType": "application/octet-stream", "buffer": b"x"})
    page.wait_for_selector("#documents-status.bad >> text=cannot be read")
    assert "--edits" in page.inner_text("#edits-status") and not page.is_visible("#edit")
    assert all("status of 4" in fault for fault in faults)  # what the browser notes of the two refusals


def test_a_question_is_asked_by_keyboard_alone(browser: Any, server: Served) -> None:
    page, faults = open_page(browser, server, color_scheme="dark")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the question"
    page.keyboard.press("Enter")
    page.keyboard.type("Who?")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("4")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Done.")
    # Every control has a name, and text stands out from its ground.
    unnamed = "[...document.querySelectorAll('input, textarea')].filter((e) => !e.labels.length).map((e) => e.id)"
    assert page.evaluate(unnamed) == []
    assert contrast(page, "body") > 7 and contrast(page, "#ask-button") > 4.5 and contrast(page, "label") > 4.5
    assert [fault for fault in faults if "404" not in fault] == []


def contrast(page: Any, selector: str) -> float:
    """The contrast of an element's text with what is behind it (WCAG 2.2)."""
    colours = page.evaluate(
        """(selector) => {
          let element = document.querySelector(selector), style = getComputedStyle(element), ground = element;
          while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
          return [style.color, getComputedStyle(ground).backgroundColor].map((c) => c.match(/[0-9.]+/g).map(Number));
        }""",
        selector,
    )

    def light(colour: list[float]) -> float:
        parts = [value / 255 for value in colour[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    first, second = sorted(map(light, colours))
    return (second + 0.05) / (first + 0.05)


def test_a_key_is_asked_for(browser: Any, serve: Serve) -> None:
    from diekae.serve import Keys

    page, _ = open_page(browser, serve(keys=Keys([("*", "k" * 16)])))
    page.wait_for_selector("#key-form", state="visible")
    page.fill("#key", "k" * 16)
    page.click("text=Use key")
    page.wait_for_selector("text=tiny answers from your documents")
    deadline = time.monotonic() + 10
    while page.is_visible("#key-form") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not page.is_visible("#key-form")
