"""Measures the annotator in a real browser: `make measure-widget`, about a quarter of an hour.

Prints what it finds and leaves it in reports/measure_widget/.
"""

import hashlib
import os
import random
import re
import signal
import statistics
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

import nbformat
import nibabel
import numpy as np
from browser import ANNOTATOR, NOTEBOOKS, Annotator, jupyterlab, opened, until
from playwright.sync_api import Error as PageError
from scipy import ndimage
from tqdm import tqdm

from limnet.annotator.annotation import Annotation
from limnet.annotator.journal import read_journal, replay
from limnet.annotator.widget.canvas import POSITIVE
from limnet.annotator.widget.view import View
from limnet.annotator.widget.widget import SIZE
from limnet.volumes import Volume
from measure.report import report
from measure.rows import Setting, phantom_slices

SLICES, CLICKS, EVENTS, CHANGES, KILLS = 100, 60, 300, 2000, 50
DEEDS = ("click", "click", "brush", "wheel", "p", "z")
YELLOW = 0.25  # of the patch around a click that has turned yellow: the mask is seen
DIGEST = "import hashlib; print(hashlib.sha256(widget.annotation.labels().tobytes()).hexdigest())"

# When a place of the main canvas was painted otherwise, looked at once a frame, and when yellow
WATCH = """() => {
    const canvas = document.querySelector('.limnet canvas');
    const copy = new OffscreenCanvas(32, 32);
    const pen = copy.getContext('2d', { willReadFrequently: true });
    window.watched = { painted: [], place: [200, 200], yellow: null, pressed: null };
    let last = null;
    const look = () => {
        const [x, y] = window.watched.place;
        pen.drawImage(canvas, x - 16, y - 16, 32, 32, 0, 0, 32, 32);
        const { data } = pen.getImageData(0, 0, 32, 32);
        let [hash, yellow] = [0, 0];
        for (let i = 0; i < data.length; i += 4) {
            hash = (hash * 31 + data[i]) | 0;
            yellow += data[i] - data[i + 2] > 40;
        }
        if (hash !== last) { last = hash; window.watched.painted.push(performance.now()); }
        if (yellow > 1024 * WANTED) window.watched.yellow ??= performance.now();
        requestAnimationFrame(look);
    };
    document.addEventListener('mousedown', () => {
        window.watched.pressed = performance.now();
        window.watched.yellow = null;
    }, true);
    look();
}""".replace("WANTED", str(YELLOW))
TURN = """async ([events, milliseconds, deltaY]) => {
    const canvas = document.querySelector('.limnet canvas');
    const box = canvas.getBoundingClientRect();
    const at = { clientX: box.x + 20, clientY: box.y + 20, bubbles: true, cancelable: true };
    const under = document.elementFromPoint(at.clientX, at.clientY);
    const began = performance.now();
    window.watched.painted.length = 0;
    for (let event = 0; event < events; event++) {
        under.dispatchEvent(new WheelEvent('wheel', { deltaY, ...at }));
        const next = began + (event + 1) * milliseconds;
        await new Promise(done => setTimeout(done, Math.max(0, next - performance.now())));
    }
    const ended = performance.now();
    await new Promise(done => setTimeout(done, 1500));
    const { painted } = window.watched;
    const during = painted.filter(time => time <= ended).length;
    return [1000 * events / (ended - began), 1000 * during / (ended - began),
            Math.max(0, painted.at(-1) - ended)];
}"""


def written(slices: int, side: int, folder: Path) -> tuple[Volume, np.ndarray]:
    """A phantom's slices that show the liver, as a file that notebook 40 in the folder opens."""
    images, liver = phantom_slices(Setting(slices=slices, size=side))
    image = folder / "image.nii"
    affine = np.diag([-300 / side, -300 / side, 2.0, 1.0])  # slices farther apart than their pixels
    nibabel.save(nibabel.Nifti1Image(images.transpose(2, 1, 0), affine), image)
    notebook = nbformat.read(NOTEBOOKS / ANNOTATOR, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.source.startswith("image: str"))
    cell.source = cell.source.replace('image: str = ""', f"image: str = {str(image)!r}")
    cell.source = cell.source.replace('"liver, aorta"', '"liver"')
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / ANNOTATOR)
    return Volume.read(image), liver


def deepest(mask: np.ndarray) -> tuple[int, int]:
    """The pixel that is deepest inside."""
    depth = ndimage.distance_transform_edt(mask)
    return tuple(int(each) for each in np.unravel_index(depth.argmax(), mask.shape))


def whole_view(volume: Volume) -> View:
    return View(volume.images.shape[1:3], volume.spacing_mm[1:], (SIZE, SIZE))


def turn(annotator: Annotator, events: int, every_ms: float, *, back: bool = True) -> list[float]:
    """Wheel events a second, painted frames a second, and milliseconds of lag after the last."""
    return annotator.page.evaluate(TURN, [events, every_ms, -100 if back else 100])


def click_seconds(annotator: Annotator, volume: Volume, liver: np.ndarray) -> list[float]:
    """From the button's way down to the frame with the mask, on slices without one."""
    view, seconds = whole_view(volume), []
    find = "window.watched.yellow && window.watched.yellow - window.watched.pressed"
    for index in np.resize(np.arange(len(liver)), CLICKS).tolist():
        annotator.execute(f"widget.controller.go_to({index})")
        row, column = deepest(liver[index])
        x, y = view.to_canvas(row, column)
        annotator.page.evaluate(f"window.watched.place = [{x}, {y}]")
        annotator.page.mouse.move(*annotator.place(view, row, column))
        annotator.commit(0.2)
        annotator.page.mouse.down()
        annotator.page.mouse.up()
        with suppress(PageError):  # the mask is elsewhere: nothing to time
            annotator.page.wait_for_function(find, timeout=5000)
            seconds.append(annotator.page.evaluate(find) / 1000)
        annotator.page.keyboard.press("z")
        annotator.commit(0.2)
    return seconds


def memory_mb(annotator: Annotator) -> float:
    """Of all processes of the browser after it collected its garbage; shared pages count once."""
    session = annotator.page.context.new_cdp_session(annotator.page)
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
        annotator.page.wait_for_timeout(1000)
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if b"chromium" in (folder / "cmdline").read_bytes():
                pages = (folder / "smaps_rollup").read_text()
                total += int(re.search(r"Pss:\s+(\d+)", pages)[1]) / 1024
    return total


def measure_slices(folder: Path) -> dict[str, object]:
    """Clicks, wheel and memory on 512 x 512 slices."""
    volume, liver = written(SLICES, 512, folder)
    with jupyterlab(folder) as address, opened(address) as annotator:
        annotator.run_all()
        annotator.page.evaluate(WATCH)
        seconds = click_seconds(annotator, volume, liver)
        memory = [memory_mb(annotator)]
        for back in (True, False):
            turn(annotator, SLICES, 30, back=back)
        memory.append(memory_mb(annotator))
        turned = [turn(annotator, EVENTS // 3, 1000 / 60, back=back) for back in (1, 0, 1)]
        memory.append(memory_mb(annotator))
        for sweep in range(CHANGES // SLICES):
            turn(annotator, SLICES, 25, back=not sweep % 2)
        memory.append(memory_mb(annotator))
    rate, painted, lag = np.array(turned).T
    return {
        "clicks timed": len(seconds),
        "click to mask, median ms": 1000 * statistics.median(seconds),
        "click to mask, 95 % ms": 1000 * float(np.quantile(seconds, 0.95)),
        "wheel events a second": rate.mean(),
        "painted frames a second, least": painted.min(),
        "lag after the last event, worst ms": lag.max(),
        "browser MB: first sight of 100 slices": memory[1] - memory[0],
        "browser MB: 2,000 slice changes after that": memory[3] - memory[2],
        "console errors": len(annotator.errors),
    }


def measure_round(folder: Path) -> dict[str, object]:
    """The first round of 100 slices of 256 x 256, alone and while the wheel turns."""
    volume, liver = written(SLICES, 256, folder)
    largest, seconds = int(liver.sum(axis=(1, 2)).argmax()), []
    with jupyterlab(folder) as address, opened(address) as annotator:
        annotator.run_all()
        annotator.page.evaluate(WATCH)
        for turning in (False, True):
            annotator.execute(f"widget.controller.go_to({largest})")
            place = annotator.place(whole_view(volume), *deepest(liver[largest]))
            annotator.page.mouse.click(*place)
            annotator.commit()
            began = time.monotonic()
            annotator.page.keyboard.press("p")
            if turning:
                annotator.page.wait_for_timeout(500)
                _, painted, lag = turn(annotator, 60, 1000 / 20)
            annotator.told("liver, round 1")
            seconds.append(time.monotonic() - began)
            for _ in range(2):
                annotator.page.keyboard.press("z")
                annotator.commit()
    alone, turned = seconds
    frames = {"painted frames a second at 20 events": painted, "lag meanwhile, ms": lag}
    return {"first round, s": alone, "first round while the wheel turns, s": turned, **frames}


def measure_kills(folder: Path) -> dict[str, object]:
    """SIGKILL at random moments of a user's work; each time the notebook is opened again."""
    random.seed(4)
    volume, _ = written(30, 192, folder)
    journal, restored, lost, restarts = folder / "image.limnet.jsonl", 0, 0, []
    with jupyterlab(folder) as address, opened(address) as annotator:
        annotator.run_all()
        for _ in tqdm(range(KILLS)):
            before = clicks_in(journal)
            seen = work_until_killed(annotator, volume)
            annotator.wait_for_restart()
            began = time.monotonic()
            annotator.run_all()
            restarts.append(time.monotonic() - began)
            lost += max(0, seen - (clicks_in(journal) - before))
            digest = annotator.execute(DIGEST).strip()
            restored += digest == digest_of(replay(journal, volume, recompute=False))
    return {
        "kills": KILLS,
        "restored to the voxel": restored,
        "clicks seen and lost": lost,
        "notebook run again, median s": statistics.median(restarts),
        "replay bit-equal": digest_of(replay(journal, volume)) == digest,
    }


def work_until_killed(annotator: Annotator, volume: Volume) -> int:
    """Random deeds until the kernel is killed; clicks whose disc was on the screen before."""
    view, (height, width) = whole_view(volume), volume.images.shape[1:3]
    pid, page, seen = int(annotator.execute("import os; print(os.getpid())")), annotator.page, 0
    strike = threading.Timer(random.uniform(0.2, 4.0), os.kill, (pid, signal.SIGKILL))
    strike.start()
    while strike.is_alive():
        row, column = random.randrange(height), random.randrange(width)
        place, before = annotator.place(view, row, column), annotator.pixels()
        deed = random.choice(DEEDS)
        if deed == "click":
            page.mouse.click(*place)
        elif deed == "brush":
            page.keyboard.press("b")
            page.mouse.down()
            page.mouse.move(place[0] + 40, place[1])
            page.mouse.up()
            page.keyboard.press("c")
        elif deed == "wheel":
            page.mouse.move(*place)
            page.mouse.wheel(0, random.choice((-100, 100)))
        else:
            page.keyboard.press(deed)
        with suppress(TimeoutError):
            until(lambda before=before: (annotator.pixels() != before).any(), deed, 0.6)
            new = shows_click(annotator.pixels(), view, row, column)
            seen += deed == "click" and new and not shows_click(before, view, row, column)
    return seen


def clicks_in(journal: Path) -> int:
    return sum(action["action"] == "click" for action in read_journal(journal)[1])


def shows_click(pixels: np.ndarray, view: View, row: int, column: int) -> bool:
    """Whether the canvas has the green disc of a positive click there."""
    x, y = (min(round(each) + 4, SIZE - 1) for each in view.to_canvas(row, column))
    return tuple(pixels[y, x, :3]) == tuple(bytes.fromhex(POSITIVE[1:]))


def digest_of(annotation: Annotation) -> str:
    return hashlib.sha256(annotation.labels().tobytes()).hexdigest()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    report("measure_widget", (measure_slices, measure_round, measure_kills))
