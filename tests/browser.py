"""A real JupyterLab on loopback and a headless Chromium that presses its mouse and keys."""

import base64
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, sync_playwright
from playwright.sync_api import Error as PageError

from limnet.annotator.widget.view import View
from limnet.annotator.widget.widget import SIZE

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
ANNOTATOR = "40_click_and_segment.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (  # nothing is looked up, nothing is asked of other machines
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
NO_NEWS = '{"fetchNews": "false", "checkForUpdates": false}'
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
# JupyterLab draws only the cells in sight
TO_THE_ANNOTATOR = """async () => {
    const { content } = window.jupyterapp.shell.currentWidget;
    const source = cell => cell.model.sharedModel.getSource();
    const index = content.widgets.findIndex(cell => source(cell).includes('ClickWidget(image'));
    content.activeCellIndex = index;
    await content.scrollToItem(index, 'start');
}"""
EXECUTE = """async code => {
    const printed = [];
    const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
    const future = kernel.requestExecute({ code, store_history: false });
    future.onIOPub = ({ content }) => printed.push(content.text ?? content.evalue ?? '');
    await future.done;
    return printed.join('');
}"""


def chromium() -> str | None:
    """The browser that is installed."""
    found = (shutil.which(name) for name in (os.environ.get("LIMNET_CHROMIUM", ""), *BROWSERS))
    return next(filter(None, found), None)


@contextmanager
def jupyterlab(folder: Path, *, theme: str = "JupyterLab Light") -> Iterator[str]:
    """The address of a server of the notebooks, which keeps all that it writes in a folder."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    for name, values in (("themes", f'{{"theme": "{theme}"}}'), ("notification", NO_NEWS)):
        settings = folder / "settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / f"{name}.jupyterlab-settings").write_text(values)
    notebooks = folder / "notebooks"
    if not notebooks.exists():  # JupyterLab writes into what it opens
        notebooks.mkdir()
        shutil.copy(NOTEBOOKS / ANNOTATOR, notebooks)
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "LIMNET_REPORTS": str(folder),
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={notebooks}",
        "--LabApp.expose_app_in_browser=True",
        # of kernels that die within ten seconds each; after five JupyterLab gives up
        "--KernelRestarter.restart_limit=1000",
    ]  # fmt: skip
    with (folder / "jupyterlab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        until(lambda: "is running at" in (folder / "jupyterlab.log").read_text(), "JupyterLab")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def opened(address: str, width: int = 1280, height: int = 1400) -> Iterator["Annotator"]:
    """Notebook 40 in a browser's window, not yet run."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(QUIET))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            annotator = Annotator(page, address)
            page.on("console", annotator.listen)
            page.on("pageerror", lambda error: annotator.errors.append(str(error)))
            annotator.open()
            yield annotator
        finally:
            browser.close()


def until(found: Callable[[], object], what: str, seconds: float = 60.0) -> float:
    """Wait for something, and the seconds that it took."""
    began = time.monotonic()
    while not found():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.02)
    return time.monotonic() - began


@dataclass
class Annotator:
    """Notebook 40 in a browser, as its user has it."""

    page: Page
    address: str
    errors: list[str] = field(default_factory=list)  # that the page reported

    def listen(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def open(self) -> None:
        """Load the page; its kernel starts, or is found again."""
        self.page.goto(f"{self.address}/lab/tree/{ANNOTATOR}?reset")
        self.idle()

    def run_all(self) -> None:
        """Run every cell and scroll to the annotator."""
        self.page.evaluate(RUN_ALL)
        self.page.wait_for_timeout(300)
        self.idle()
        self.page.evaluate(TO_THE_ANNOTATOR)
        self.page.wait_for_selector(".limnet canvas", timeout=30_000)
        self.idle()
        until(lambda: self.pixels().any(), "the slice")
        self.commit()

    def idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        self.page.wait_for_function(f"{KERNEL}?.status === 'idle'", timeout=120_000)

    def execute(self, code: str) -> str:
        """What code prints in the kernel."""
        return self.page.evaluate(EXECUTE, code)

    def kill_kernel(self) -> None:
        """SIGKILL, which nothing survives; JupyterLab starts another one and says so."""
        pid = int(self.execute("import os; print(os.getpid())"))
        os.kill(pid, signal.SIGKILL)
        self.wait_for_restart()

    def wait_for_restart(self) -> None:
        """Wait for the dialog that says so, unless it was clicked away, and for the new kernel."""
        with suppress(PageError):
            self.page.get_by_role("button", name="Ok").click(timeout=15_000)
        self.idle()

    def button(self, name: str) -> None:
        self.page.locator(".limnet button", has_text=name).first.click()

    def place(self, view: View, row: float, column: float) -> tuple[float, float]:
        """Where on the page a pixel of the main image is."""
        box = self.page.locator(".limnet canvas").first.bounding_box()
        x, y = view.to_canvas(row, column)
        return box["x"] + x * box["width"] / SIZE, box["y"] + y * box["height"] / SIZE

    def pixels(self, canvas: int = 0) -> np.ndarray:
        """(height, width, 4) of a canvas: the main one, two other planes, the strip."""
        read = "canvas => canvas.toDataURL().split(',')[1]"
        png = self.page.locator(".limnet canvas").nth(canvas).evaluate(read)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))

    def commit(self, seconds: float = 0.3) -> np.ndarray:
        """The main canvas's pixels once they have stayed the same for a while."""
        before, since = self.pixels(), time.monotonic()
        while time.monotonic() - since < seconds:
            self.page.wait_for_timeout(30)
            now = self.pixels()
            if not np.array_equal(now, before):
                before, since = now, time.monotonic()
        return before

    def repainted(self, before: np.ndarray, what: str) -> np.ndarray:
        """Wait until the main canvas looks otherwise."""
        until(lambda: not np.array_equal(self.pixels(), before), what, 20)
        return self.commit()

    def message(self) -> str:
        return self.page.locator(".limnet > .widget-html").first.inner_text().strip()

    def told(self, words: str, seconds: float = 60.0) -> None:
        """Wait for words in the line of messages."""
        try:
            until(lambda: words in self.message(), words, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it says {self.message()!r}") from None

    def shoot(self, path: Path) -> None:
        """A picture of the annotator alone."""
        self.page.mouse.move(2, 2)
        self.page.locator(".limnet").first.screenshot(path=path)
