"""A browser reads a book by keys, swipes and a voice, searches the codes, and locks a character."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from tests.studio.conftest import in_chromium, type_into, until

pytestmark = [pytest.mark.slow, in_chromium]  # WebDriver has no touch and no file dialogs of Firefox 140.


def test_the_reader_turns_by_keys(page):
    page.keyboard.press("f")
    page.wait_for_selector(".told.cover")
    count = page.locator(".film .cell").count()
    for number in range(1, count + 1):
        page.keyboard.press("ArrowRight")
        until(
            page, "label => document.querySelector('.reader footer span').textContent === label", f"{number} / {count}"
        )
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.told').textContent === 'The end'")


def test_the_reader_turns_by_swipes_and_knows_its_voices(page):
    page.keyboard.press("f")
    page.wait_for_selector(".told.cover")
    swipe = """([from, to]) => {
        const target = document.querySelector(".sheet");
        const at = (x) => [new Touch({ identifier: 1, target, clientX: x, clientY: 300 })];
        document.dispatchEvent(new TouchEvent("touchstart", { touches: at(from), changedTouches: at(from) }));
        document.dispatchEvent(new TouchEvent("touchend", { touches: [], changedTouches: at(to) }));
    }"""
    page.evaluate(swipe, [300, 180])
    until(page, "document.querySelector('.reader footer span')?.textContent.startsWith('1 /')")
    page.evaluate(swipe, [180, 200])
    page.evaluate(swipe, [180, 300])
    page.wait_for_selector(".told.cover")
    until(page, "Boolean(document.querySelector('.no-voice')) === (speechSynthesis.getVoices().length === 0)")
    none = page.locator(".no-voice").count()
    assert page.locator(".reader [data-do=speak]").is_disabled() == bool(none)


def test_a_voice_reads_to_the_end(page):
    """A browser with a voice, which says each text at once: the pages turn by themselves."""
    page.add_init_script("""
        const heard = (window.heard = []);
        const speak = (one) => { heard.push(one.text); setTimeout(() => one.onend?.()); };
        const voice = { getVoices: () => [{}], cancel() {}, speak };
        Object.defineProperty(window, "speechSynthesis", { value: voice });
    """)
    page.reload()
    page.wait_for_selector(".leaf img")
    page.keyboard.press("f")
    page.wait_for_selector(".told.cover")
    page.keyboard.press("Space")
    until(page, "document.querySelector('.told.the-end')")
    until(page, "document.querySelector('[data-do=speak]').getAttribute('aria-pressed') === 'false'")
    heard = page.evaluate("heard")
    assert heard[0] == page.inner_text("h1") and heard[-1] == "The end"
    assert len(heard) == page.locator(".film .cell").count() + 2


def test_codes_are_searched_and_put_into_a_page(page):
    page.keyboard.press("Shift+K")
    page.wait_for_selector(".code-card")
    type_into(page, "[data-field=codeWords]", "no such word")
    until(page, "!document.querySelector('.code-card')")
    with page.expect_file_chooser() as chooser:
        page.click("[data-do=seekPicture]")
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "teal").save(buffer, "PNG")
    chooser.value.set_files({"name": "sea.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    until(page, "document.querySelectorAll('.code-card').length === 8")
    page.click("[data-do=seekPage]")
    until(page, "document.querySelector('.cards .hint').textContent.includes('of page')")
    page.fill("[data-field=codeWords]", "")
    page.wait_for_selector(".code-card [data-do=putCode]")
    slot, code = page.get_attribute("[data-do=putCode]", "data-arg").split(":")
    page.click("[data-do=putCode]")
    until(page, "([slot, code]) => document.querySelectorAll('.chip')[slot]?.textContent === code", [int(slot), code])


def test_a_character_is_locked_and_kept(page):
    """The tiny model draws nobody that the judge would know, so the cast comes from the client's own state."""
    page.route("**/api/stories/*", add_cast)
    page.reload()
    page.wait_for_selector(".cast li")
    page.click("[data-do=keepHero]")
    until(page, "text => document.querySelector('[data-field=prompt]').value === text", "Rusty the fox in a red coat ")
    page.click("h1")
    page.click("[data-do=lockCast]")
    page.wait_for_selector("[data-do=lockCast][aria-pressed=true]")
    page.keyboard.press("Control+z")
    page.wait_for_selector("[data-do=lockCast][aria-pressed=false]")
    page.unroute("**/api/stories/*")


def add_cast(route: Any) -> None:
    """Answer with the story, and a fox in it."""
    answer = route.fetch()
    story = answer.json()
    for state in story["states"]:
        state["checks"]["cast"] = [{"kind": "fox", "name": "Rusty", "color": "red", "pages": [0, 1]}]
    route.fulfill(response=answer, json=story)
