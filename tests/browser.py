"""A headless Chromium at the console, as a person uses it: by what stands on the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")

DRIVER = "/usr/bin/chromedriver"
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--disable-sync", "--disable-component-update",
    # Whatever a page would load from elsewhere does not exist.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
_MOVED = (
    ElementClickInterceptedException, ElementNotInteractableException, NoSuchElementException,
    StaleElementReferenceException,
)  # fmt: skip
"""What happens while a page moves under one's hand: look again."""


class Browser:
    def __init__(self, base: str, width: int = 1280, height: int = 1600) -> None:
        options = ChromeOptions()
        for argument in (*ARGUMENTS, f"--window-size={width},{height}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._chrome = Chrome(options=options, service=Service(DRIVER))
        self._base = base
        self._width, self._height = width, height

    def close(self) -> None:
        self._chrome.quit()

    def open(self, path: str) -> None:
        self._chrome.get(self._base + path)

    @property
    def path(self) -> str:
        return str(self._chrome.current_url).removeprefix(self._base)

    @property
    def text(self) -> str:
        try:
            return self._chrome.find_element(By.TAG_NAME, "body").text
        except _MOVED:
            return ""

    @property
    def source(self) -> str:
        return str(self._chrome.page_source)

    def see(self, words: str, seconds: float = 15) -> None:
        """Wait until it stands on the page, without loading it again."""
        self._until(lambda: words in self.text or None, f"“{words}” on {self.path}", seconds)

    def click(self, words: str, within: str = "", seconds: float = 15) -> None:
        """The link or button with these words; `within`, a CSS selector, where there are several."""
        near = f"{within} " if within else ""

        def once() -> bool | None:
            for element in self._chrome.find_elements(
                By.CSS_SELECTOR, f"{near}a, {near}button, {near}input[type=submit], {near}summary"
            ):
                label = element.text or element.get_attribute("value") or element.get_attribute("aria-label") or ""
                if words in label.splitlines() or label.strip() == words:
                    self._chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
                    element.click()
                    return True
            return None

        self._until(once, f"something to click called “{words}” on {self.path}", seconds)

    def fill(self, name: str, value: str, seconds: float = 15) -> None:
        def once() -> bool:
            field = self._shown(f"[name={name}]")
            field.clear()
            field.send_keys(value)
            return True

        self._until(once, f"a field {name} on {self.path}", seconds)

    def tick(self, name: str, on: bool) -> None:
        def once() -> bool:
            box = self._chrome.find_element(By.CSS_SELECTOR, f"input[type=checkbox][name={name}]")
            if box.is_selected() != on:
                self._chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
                box.click()
            return box.is_selected() == on

        self._until(lambda: once() or None, f"a box {name} on {self.path}", 15)

    def await_path(self, path: str, seconds: float = 15) -> None:
        self._until(lambda: self.path.startswith(path) or None, f"{path}, not {self.path}", seconds)

    def complaints(self) -> list[str]:
        """What the browser said on its console: errors of scripts, and what the policy of the page forbade."""
        return [
            entry["message"] for entry in self._chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
        ]

    def shoot(self, path: str) -> None:
        self._chrome.save_screenshot(path)

    def shoot_whole(self, path: str) -> None:
        """A picture of the page to its end, as far as somebody would scroll."""
        height = min(max(int(self.script("return document.documentElement.scrollHeight")), 700), 5000)
        self._size(self._width, height)
        self.shoot(path)
        self._size(self._width, self._height)

    def resize(self, width: int) -> None:
        self._width = width
        self._size(width, self._height)

    def _size(self, width: int, height: int) -> None:
        # Not by the window, which is never narrower than 500 px.
        self._chrome.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def dress(self, theme: str) -> None:
        """Light or dark, as unfold does it."""
        self.script(
            f"document.documentElement.classList.toggle('dark', {str(theme == 'dark').lower()});"
            f"document.documentElement.style.colorScheme = '{theme}'"
        )

    def set_cookie(self, name: str, value: str) -> None:
        self._chrome.add_cookie({"name": name, "value": value})

    def script(self, code: str) -> Any:
        return self._chrome.execute_script(code)

    def script_and_wait(self, code: str) -> Any:
        """Of a script that says when it is done, by the last of its arguments."""
        return self._chrome.execute_async_script(code)

    def _shown(self, selector: str) -> WebElement:
        for element in self._chrome.find_elements(By.CSS_SELECTOR, selector):
            if element.is_displayed():
                return element
        raise NoSuchElementException(selector)

    def _until(self, look: Callable[[], T | None], what: str, seconds: float) -> T:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if (found := look()) is not None:
                    return found
            except _MOVED:
                pass
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.text}"
            time.sleep(0.2)
