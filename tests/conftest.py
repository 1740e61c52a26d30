"""Graphs in a few lines, in ONNX's own text form with the weights given as arrays; a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from graphs import built
from hypothesis import HealthCheck, settings

from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.io.models import write_model


def pytest_configure() -> None:
    """Let Ctrl-C interrupt: what a shell starts in the background is told to ignore it. A busy
    machine is no defect: drawing examples may take as long as it takes.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    slow = [HealthCheck.too_slow]
    settings.register_profile("busy", deadline=None, suppress_health_check=slow)
    settings.load_profile("busy")


@pytest.fixture
def build() -> Callable[..., onnx.ModelProto]:
    """Return `build("(inputs) => (outputs) { nodes }", opset=21, weight=array, …)`."""
    return built


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[[onnx.ModelProto], PreparedModel]:
    """Return a function that writes a model and prepares it."""

    def make(model: onnx.ModelProto) -> PreparedModel:
        path = tmp_path / "source.onnx"
        write_model(model, path)
        return prepare(path)

    return make


def require_chromium() -> tuple[str, str]:
    """Return where Chromium and its driver are; skip without them, but never in CI."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] is None or found[1] is None:
        reason = "chromium and chromedriver are not installed (.ci/run installs them with apt)"
        if os.environ.get("QGRAPH_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found[0], found[1]


class Browser:
    """A window that keeps what the console says and what is requested."""

    def __init__(self) -> None:
        # the core's own tests run without it
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service

        chromium, driver = require_chromium()
        options = Options()
        options.binary_location = chromium
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))

    def open(self, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
        """Open a page and wait until its charts are drawn."""
        self._command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        self.driver.get(page.resolve().as_uri())
        from selenium.webdriver.support.ui import WebDriverWait

        drawn = "return document.documentElement.dataset.drawn === 'yes'"
        WebDriverWait(self.driver, 60).until(lambda driver: driver.execute_script(drawn))

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Return what the console has said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return every address the page has asked for since the last call."""
        events = [json.loads(item["message"]) for item in self.driver.get_log("performance")]
        return [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]

    def _command(self, name: str, **arguments: Any) -> None:
        self.driver.execute_cdp_cmd(name, arguments)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a real headless Chromium, driven through its own driver."""
    window = Browser()
    yield window
    window.driver.quit()


@pytest.fixture(scope="session")
def axe() -> str:
    """Return axe-core, the checker of accessibility, as a script; skip without it, not in CI."""
    try:
        import axe_core_python
    except ImportError:
        if os.environ.get("QGRAPH_REQUIRE_BROWSER"):
            pytest.fail("axe-core-python, of the dev extra, is not installed")
        pytest.skip("axe-core-python is not installed")
    script = Path(axe_core_python.__file__).with_name("axe.min.js")
    return script.read_text(encoding="utf-8")
