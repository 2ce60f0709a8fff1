"""A panel as a person at the keyboard meets it: focus, arrow keys, Enter, and what is to be seen."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page

_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")
CONTROLS = ".skilllab-controls :is(.noUi-handle, input)"


class PanelOnPage:
    """One panel on a page: its controls in reading order, its picture, its words."""

    def __init__(self, panel: Locator) -> None:
        self.panel, self.page = panel, panel.page
        self.picture = panel.locator(".skilllab-picture")
        self.words = panel.locator(".skilllab-summary [role=status]")
        self.alert = panel.locator(".skilllab-error [role=alert]")
        self.reset_button = panel.locator(".skilllab-controls button")
        self.run_button = panel.locator(".skilllab-view button")
        self.controls = panel.locator(CONTROLS).all()

    @property
    def summary(self) -> str:
        return self.words.inner_text()

    @property
    def source(self) -> str:
        return str(self.picture.evaluate("image => image.src"))

    def move(self, control: Locator) -> None:
        """Moves a control one step by an arrow key, or adds 1 to the last number of a text; waits for words and picture."""
        control.focus()
        summary, source = self.summary, self.source
        if control.get_attribute("type") == "text":
            control.fill(_LAST_NUMBER.sub(lambda number: str(int(number[0]) + 1), control.input_value()))
            self.page.keyboard.press("Enter")
        else:
            self.page.keyboard.press(str(control.evaluate(_KEY)))
        self.wait_for_other_words(summary)
        if control.evaluate("control => control.localName !== 'input'"):  # a cost may be too small to be seen
            self.picture.and_(self.page.locator(f'img:not([src="{source}"])')).wait_for()

    def reset(self) -> None:
        """Presses the button by keyboard."""
        self.reset_button.focus()
        self.page.keyboard.press("Enter")

    def run(self) -> None:
        """Presses the button that starts a run by keyboard."""
        self.run_button.focus()
        self.page.keyboard.press("Enter")

    def wait_for_words(self, text: str) -> None:
        self._wait("([words, image, text]) => words.innerText.trim() === text", text)

    def wait_for_other_words(self, text: str) -> None:
        self._wait("([words, image, text]) => words.innerText.trim() !== text", text)

    def wait_for_words_with(self, text: str) -> None:
        self._wait("([words, image, text]) => words.innerText.includes(text)", text)

    def wait_for_name(self) -> None:
        """Waits until the picture's name is the words beside it."""
        self._wait("([words, image]) => words.innerText.trim() === image.title", "")

    def _wait(self, condition: str, text: str) -> None:
        # What holds the words: the element with the words is replaced with them.
        words = self.panel.locator(".skilllab-summary .widget-html-content").element_handle()
        self.page.wait_for_function(condition, arg=[words, self.picture.element_handle(), text])


def panels(page: Page) -> list[PanelOnPage]:
    """The panels on the page, each with its picture shown."""
    found = page.locator(".skilllab-panel").all()
    for panel in found:
        panel.locator(".skilllab-picture").wait_for()
    return [PanelOnPage(panel) for panel in found]


_KEY = """control => {
  if (control.localName === 'input') return 'ArrowUp';
  return control.ariaValueNow === control.ariaValueMax ? 'ArrowLeft' : 'ArrowRight';
}"""
