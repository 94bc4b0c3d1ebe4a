"""Measures the annotator in a real browser: `make measure-widget`, about a quarter of an hour.

Prints what the README states and leaves it in reports/measure_widget/.
"""

import hashlib
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import nibabel
import numpy as np
from browser import ANNOTATOR, NOTEBOOKS, Annotator, jupyterlab, opened, until
from playwright.sync_api import Error as PageError
from scipy import ndimage

from limnet.annotator.journal import read_journal, replay
from limnet.annotator.widget.canvas import POSITIVE
from limnet.annotator.widget.view import View
from limnet.annotator.widget.widget import SIZE
from limnet.data import example_case
from limnet.metrics import dice
from limnet.volumes import Volume
from measure.report import report

SLICES, LARGE, MIDDLE = 100, 512, 256
CLICKS, EVENTS, CHANGES, KILLS = 60, 300, 2000, 50
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
TURN = """async ([events, milliseconds]) => {
    const canvas = document.querySelector('.limnet canvas');
    const box = canvas.getBoundingClientRect();
    const at = { clientX: box.x + 20, clientY: box.y + 20, bubbles: true, cancelable: true };
    const under = document.elementFromPoint(at.clientX, at.clientY);
    const began = performance.now();
    window.watched.painted.length = 0;
    for (let event = 0; event < events; event++) {
        under.dispatchEvent(new WheelEvent('wheel', { deltaY: window.direction ?? 100, ...at }));
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


def enlarged(case, side: int, folder: Path):
    """The example with so many slices of side x side pixels, as a file, and its liver."""
    volume = Volume.read(case.image)
    truth = case.target(volume.read_labels(case.label), "liver")
    factors = np.divide((SLICES, side, side), volume.images.shape)
    images = ndimage.zoom(volume.images.astype(np.float32), factors, order=1).astype(np.int16)
    liver = ndimage.zoom(truth, factors, order=0).astype(np.int16)
    affine = np.diag([-300 / side, -300 / side, 2.0, 1.0])  # slices farther apart than their pixels
    folder.mkdir()
    for name, array in (("volume", images), ("liver", liver)):
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), folder / f"{name}.nii")
    volume = Volume.read(folder / "volume.nii")
    return volume, volume.read_labels(folder / "liver.nii") == 1, folder / "volume.nii"


def notebook_on(image: Path, folder: Path) -> None:
    """Notebook 40 with another image, where the server finds it."""
    notebook = nbformat.read(NOTEBOOKS / ANNOTATOR, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.source.startswith("image: str"))
    cell.source = cell.source.replace('image: str = ""', f"image: str = {str(image)!r}")
    cell.source = cell.source.replace('"liver, aorta"', '"liver"')
    (folder / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, folder / "notebooks" / ANNOTATOR)


def middle(mask: np.ndarray) -> tuple[int, int]:
    """The pixel that is deepest inside."""
    depth = ndimage.distance_transform_edt(mask)
    return tuple(int(each) for each in np.unravel_index(depth.argmax(), mask.shape))


def whole_view(volume: Volume) -> View:
    return View(volume.images.shape[1:3], volume.spacing_mm[1:], (SIZE, SIZE))


def click_seconds(annotator: Annotator, volume: Volume, truth: np.ndarray) -> list[float]:
    """From the button's way down to the frame with the mask, on slices without one."""
    view, seconds = whole_view(volume), []
    with_liver = np.flatnonzero(truth.sum(axis=(1, 2)) > 3000)
    for index in np.resize(with_liver, CLICKS).tolist():
        annotator.execute(f"widget.controller.go_to({index})")
        row, column = middle(truth[index])
        x, y = view.to_canvas(row, column)
        annotator.page.evaluate(f"window.watched.place = [{x}, {y}]")
        annotator.page.mouse.move(*annotator.place(view, row, column))
        annotator.commit(0.2)
        annotator.page.mouse.down()
        annotator.page.mouse.up()
        find = "window.watched.yellow && window.watched.yellow - window.watched.pressed"
        try:
            annotator.page.wait_for_function(find, timeout=5000)
            seconds.append(annotator.page.evaluate(find) / 1000)
        except PageError:  # the mask is elsewhere: nothing to time
            pass
        annotator.page.keyboard.press("z")
        annotator.commit(0.2)
    return seconds


def memory_mb() -> float:
    """Of all processes of the browser, each shared page counted once."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    total = 0.0
    for line in listed.splitlines():
        if "chromium" in line.split(maxsplit=1)[1]:
            rollup = Path(f"/proc/{line.split()[0]}/smaps_rollup")
            if rollup.exists():
                total += int(re.search(r"Pss:\s+(\d+)", rollup.read_text())[1]) / 1024
    return total


def settled_memory_mb(annotator: Annotator) -> float:
    session = annotator.page.context.new_cdp_session(annotator.page)
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
        annotator.page.wait_for_timeout(1000)
    return memory_mb()


def measure_slices(folder: Path, case) -> dict[str, object]:
    """Clicks, wheel and memory on 512 x 512 slices."""
    volume, truth, path = enlarged(case, LARGE, folder / "images")
    notebook_on(path, folder)
    with jupyterlab(folder) as address, opened(address) as annotator:
        annotator.run_all()
        annotator.page.evaluate(WATCH)
        seconds = click_seconds(annotator, volume, truth)
        loaded = settled_memory_mb(annotator)
        annotator.page.evaluate("window.direction = -100")
        annotator.page.evaluate(TURN, [SLICES, 30])
        annotator.page.evaluate("window.direction = 100")
        annotator.page.evaluate(TURN, [SLICES, 30])
        swept = settled_memory_mb(annotator)
        turned = []
        for direction in (-100, 100, -100):
            annotator.page.evaluate(f"window.direction = {direction}")
            turned.append(annotator.page.evaluate(TURN, [EVENTS // 3, 1000 / 60]))
        before = settled_memory_mb(annotator)
        for sweep in range(CHANGES // SLICES):
            annotator.page.evaluate(f"window.direction = {100 if sweep % 2 else -100}")
            annotator.page.evaluate(TURN, [SLICES, 25])
        after = settled_memory_mb(annotator)
        rate, painted, lag = np.array(turned).T
        return {
            "clicks timed": len(seconds),
            "click to mask, median ms": 1000 * statistics.median(seconds),
            "click to mask, 95 % ms": 1000 * float(np.quantile(seconds, 0.95)),
            "wheel events a second": rate.mean(),
            "painted frames a second, least": painted.min(),
            "lag after the last event, worst ms": lag.max(),
            "browser MB: first sight of 100 slices": swept - loaded,
            "browser MB: 2,000 slice changes after that": after - before,
            "console errors": len(annotator.errors),
        }


def measure_round(folder: Path, case) -> dict[str, object]:
    """The first round of 100 slices of 256 x 256, and the view meanwhile."""
    volume, truth, path = enlarged(case, MIDDLE, folder / "images")
    notebook_on(path, folder)
    view, largest = whole_view(volume), int(truth.sum(axis=(1, 2)).argmax())
    with jupyterlab(folder) as address, opened(address) as annotator:
        annotator.run_all()
        annotator.page.evaluate(WATCH)

        def one_round() -> float:
            annotator.execute(f"widget.controller.go_to({largest})")
            annotator.page.mouse.click(*annotator.place(view, *middle(truth[largest])))
            annotator.commit()
            began = time.monotonic()
            annotator.page.keyboard.press("p")
            return began

        began = one_round()
        annotator.told("liver, round 1")
        alone = time.monotonic() - began
        code = "numpy.save({!r}, widget.controller.object.session.masks)"
        annotator.execute("import numpy;" + code.format(str(folder / "masks.npy")))
        for _ in range(2):
            annotator.page.keyboard.press("z")
            annotator.commit()
        began = one_round()
        annotator.page.wait_for_timeout(500)
        annotator.page.evaluate("window.direction = -100")  # from the liver's middle there are many
        _, painted, lag = annotator.page.evaluate(TURN, [60, 1000 / 20])
        annotator.told("liver, round 1")
        turning = time.monotonic() - began
        return {
            "first round, s": alone,
            "DSC of the liver after it": dice(np.load(folder / "masks.npy"), truth),
            "first round while the wheel turns, s": turning,
            "painted frames a second at 20 events": painted,
            "lag meanwhile, ms": lag,
        }


def measure_kills(folder: Path, case) -> dict[str, object]:
    """SIGKILL at random moments of a user's work; each time the notebook is opened again."""
    random.seed(4)
    image = folder / "image.nii.gz"
    shutil.copy(case.image, image)
    notebook_on(image, folder)
    volume, journal = Volume.read(image), folder / "image.limnet.jsonl"
    view, restored, lost, restarts = whole_view(volume), 0, 0, []
    height, width = volume.images.shape[1:3]
    with jupyterlab(folder) as address, opened(address) as annotator:
        annotator.run_all()
        for kill in range(KILLS):
            pid = int(annotator.execute("import os; print(os.getpid())"))
            dead = threading.Event()

            def strike(pid=pid, dead=dead):
                os.kill(pid, signal.SIGKILL)
                dead.set()

            threading.Timer(random.uniform(0.2, 4.0), strike).start()
            _, actions, _ = read_journal(journal)
            clicks = sum(action["action"] == "click" for action in actions)
            seen = 0  # clicks whose mask was on the screen
            while not dead.is_set():
                row, column = random.randrange(height), random.randrange(width)
                place = annotator.place(view, row, column)
                before, do = annotator.pixels(), random.choice(DEEDS)
                if do == "click":
                    annotator.page.mouse.click(*place)
                elif do == "brush":
                    annotator.page.keyboard.press("b")
                    annotator.page.mouse.down()
                    annotator.page.mouse.move(place[0] + 40, place[1])
                    annotator.page.mouse.up()
                    annotator.page.keyboard.press("c")
                elif do == "wheel":
                    annotator.page.mouse.move(*place)
                    annotator.page.mouse.wheel(0, random.choice((-100, 100)))
                else:
                    annotator.page.keyboard.press(do)
                try:
                    until(lambda before=before: (annotator.pixels() != before).any(), do, 0.6)
                except TimeoutError:
                    continue
                if do == "click" and shows_click(annotator.pixels(), view, row, column):
                    seen += not shows_click(before, view, row, column)
            annotator.wait_for_restart()
            began = time.monotonic()
            annotator.run_all()
            restarts.append(time.monotonic() - began)
            _, actions, _ = read_journal(journal)
            kept = sum(action["action"] == "click" for action in actions) - clicks
            lost += max(0, seen - kept)
            digest = annotator.execute(DIGEST).strip()
            restored += digest == digest_of(replay(journal, volume, recompute=False))
            print(f"kill {kill + 1}: {len(actions)} lines, {restored} restored, {lost} lost",
                  flush=True)  # fmt: skip
        digest = annotator.execute(DIGEST).strip()
    again = digest_of(replay(journal, volume))
    return {
        "kills": KILLS,
        "restored to the voxel": restored,
        "clicks seen and lost": lost,
        "lines of the journal at the end": len(actions),
        "notebook run again, median s": statistics.median(restarts),
        "replay bit-equal": bool(again == digest),
    }


def shows_click(pixels: np.ndarray, view: View, row: int, column: int) -> bool:
    """Whether the canvas has the green disc of a positive click there."""
    x, y = (min(round(each) + 4, SIZE - 1) for each in view.to_canvas(row, column))
    return tuple(pixels[y, x, :3]) == tuple(bytes.fromhex(POSITIVE[1:]))


def digest_of(annotation) -> str:
    return hashlib.sha256(annotation.labels().tobytes()).hexdigest()


def main() -> None:
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as twin:
        case = example_case(os.environ.get("LIMNET_DATA"), twin)
        report("measure_widget", (measure_slices, measure_round, measure_kills), case)


if __name__ == "__main__":
    main()
