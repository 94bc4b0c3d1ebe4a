"""Does what the front end of ipycanvas does with its commands, as far as tests look at it."""

import io
from dataclasses import dataclass, field

import numpy as np
import pytest
from ipycanvas.canvas import _CMD_LIST, Canvas, _CanvasManager
from ipywidgets import widget_serialization
from PIL import Image, ImageColor

SET = {number: name for name, number in Canvas.ATTRS.items()}


@dataclass
class FakeBrowser:
    """One page: the pixels of every canvas, in RGB and opacity, and what came."""

    pages: dict[str, np.ndarray] = field(default_factory=dict)
    styles: dict[str, dict] = field(default_factory=dict)
    messages: int = 0
    names: list[str] = field(default_factory=list)  # of all commands
    current: Canvas | None = None

    @classmethod
    def instead_of_a_kernel(cls, monkeypatch):
        browser = cls()
        receive = lambda _, command, buffers=(): browser.receive(command, buffers)  # noqa: E731 short
        monkeypatch.setattr(_CanvasManager, "_send_custom", receive)
        return browser

    def pixels(self, canvas):
        """(height, width, 4) in 0 to 255, of which the last is the opacity."""
        size = (canvas.height, canvas.width, 4)
        if canvas.model_id not in self.pages or self.pages[canvas.model_id].shape != size:
            self.pages[canvas.model_id] = np.zeros(size)
        return self.pages[canvas.model_id]

    def colour(self, canvas, x, y):
        red, green, blue, _ = self.pixels(canvas)[int(y), int(x)].round().astype(int)
        return f"#{red:02x}{green:02x}{blue:02x}"

    def load_again(self, *canvases):
        """The page is empty, and its canvases say that they are there."""
        self.pages, self.styles, self.current = {}, {}, None
        for canvas in canvases:
            canvas._handle_frontend_event(canvas, {"event": "client_ready"}, [])

    def receive(self, command, buffers):
        self.messages += 1
        buffers = list(buffers)
        for number, args, *count in command if isinstance(command[0], list) else [command]:
            taken = [buffers.pop(0) for _ in range(count[0])] if count else []
            name = _CMD_LIST[number]
            self.names.append(name)
            if name == "switchCanvas":
                self.current = widget_serialization["from_json"](args[0], None)
            elif self.current is None:
                pytest.fail("a command without a canvas stops all drawing for good")
            elif hasattr(self, name):
                getattr(self, name)(*(_argument(each, taken) for each in args), *taken[: not args])
            if name == "putImageData":
                self.put(*args, taken[0])

    @property
    def style(self):
        return self.styles.setdefault(self.current.model_id, {"global_alpha": 1.0})

    def set(self, number, value):
        self.style[SET[number]] = value

    def clear(self):
        self.pixels(self.current)[:] = 0

    def put(self, x, y, png):
        image = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
        self.pixels(self.current)[y : y + image.shape[0], x : x + image.shape[1]] = image

    def fillRect(self, x, y, width, height):
        page = self.pixels(self.current)
        rows = slice(max(round(y), 0), max(round(y + height), 0))
        columns = slice(max(round(x), 0), max(round(x + width), 0))
        self._blend(page[rows, columns], self._fill_colour())

    def fillRects(self, *sides):
        for each in zip(*np.broadcast_arrays(*sides), strict=True):
            self.fillRect(*each)

    def fillCircle(self, x, y, radius):
        page = self.pixels(self.current)
        rows, columns = np.ogrid[: page.shape[0], : page.shape[1]]
        disc = np.hypot(rows + 0.5 - y, columns + 0.5 - x) <= radius
        page[disc] = self._mixed(page[disc], self._fill_colour())

    def drawImage(self, source, x, y, width=None, height=None):
        image = self.pixels(widget_serialization["from_json"](source, None))
        page = self.pixels(self.current)
        width, height = width or image.shape[1], height or image.shape[0]
        rows = np.floor((np.arange(page.shape[0]) + 0.5 - y) * image.shape[0] / height).astype(int)
        columns = np.floor((np.arange(page.shape[1]) + 0.5 - x) * image.shape[1] / width)
        columns = columns.astype(int)
        inside = np.ix_(
            (rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1])
        )
        rows, columns = (each[(each >= 0) & (each < size)] for each, size in zip(
            (rows, columns), image.shape[:2], strict=True
        ))  # fmt: skip
        page[inside] = self._mixed(page[inside], image[np.ix_(rows, columns)])

    def _fill_colour(self):
        colour = self.style.get("fill_style", "black")
        if colour.startswith("rgba"):
            *rgb, alpha = (float(each) for each in colour[5:-1].split(","))
            return np.array([*rgb, alpha * 255])
        return np.array([*ImageColor.getrgb(colour), 255.0])

    def _blend(self, part, colour):
        part[:] = self._mixed(part, colour)

    def _mixed(self, below, above):
        alpha = above[..., 3:] / 255 * self.style["global_alpha"]
        rgb = below[..., :3] * (1 - alpha) + above[..., :3] * alpha
        return np.concatenate([rgb, 255 * (alpha + below[..., 3:] / 255 * (1 - alpha))], axis=-1)


def _argument(value, buffers):
    if isinstance(value, dict):
        assert value["dtype"] in ("int32", "float64"), "the browser knows no int64"
        return np.frombuffer(buffers[value["idx"]], dtype=value["dtype"])
    return value
