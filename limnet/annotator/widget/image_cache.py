"""Canvases off the screen that keep images in the browser, and commands sent in one message.

What ipycanvas 0.14 must not meet, as one failed command stops all its drawing for good: a command
without its canvas after the page was loaded again, a canvas that was closed, an image that cannot
be decoded, a circle of negative radius, NaN.
"""

import io
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import numpy as np
from ipycanvas import Canvas
from ipycanvas.canvas import _CANVAS_MANAGER, COMMANDS
from ipywidgets import Layout
from jaxtyping import UInt8
from PIL import Image

Greys = UInt8[np.ndarray, "height width *rgb"]

CACHE_BYTES = 160_000_000  # 160 images of 512 x 512
BYTES = 4  # of a pixel in the browser


@contextmanager
def held() -> Iterator[None]:
    """All that is drawn inside, also within others of these, goes to the browser as one message.

    Unlike ipycanvas' own `hold_canvas` it survives exceptions, and names the first canvas anew, as
    a page that was loaded again does not know it.
    """
    manager = _CANVAS_MANAGER
    if manager._caching:
        yield
        return
    manager._caching, manager._current_canvas = True, None
    try:
        yield
    finally:
        manager.flush()
        manager._caching = False


class ImageCache:
    """Images that stay in the browser; those not used for longest make room for new ones."""

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        """Nothing is kept yet.

        Args:
            cache_bytes: what the images may take in the browser, at 4 bytes a pixel.
        """
        self.cache_bytes = cache_bytes
        self._kept: OrderedDict[Hashable, Canvas] = OrderedDict()
        self._spare: list[Canvas] = []
        self._layout = Layout()  # one for all: each is a model in the browser

    def canvas(self, key: Hashable, make: Callable[[], Greys]) -> Canvas:
        """The canvas that holds an image; its pixels are made and sent if they are not there."""
        if key not in self._kept:
            self._kept[key] = self._put(make())
        self._kept.move_to_end(key)
        return self._kept[key]

    def forget(self) -> None:
        """The browser has lost the images: all are to be sent again."""
        self._spare += self._kept.values()
        self._kept.clear()

    def release(self) -> None:
        """Give the browser its memory back."""
        self.forget()
        for canvas in self._spare:
            resize(canvas, 1, 1)

    def _put(self, image: Greys) -> Canvas:
        height, width = image.shape[:2]
        canvas = self._room_for(width, height)
        png = io.BytesIO()
        # the fastest compression; ipycanvas itself would make a JPEG of colours
        Image.fromarray(image).save(png, "png", compress_level=1)
        put = COMMANDS["putImageData"]
        canvas._canvas_manager.send_draw_command(canvas, put, [0, 0], [png.getvalue()])
        return canvas

    def _room_for(self, width: int, height: int) -> Canvas:
        # Never closed, only used again: a command that the browser still waits to do may name it.
        taken = sum(each.width * each.height * BYTES for each in self._kept.values())
        while self._kept and taken + width * height * BYTES > self.cache_bytes:
            _, oldest = self._kept.popitem(last=False)
            taken -= oldest.width * oldest.height * BYTES
            self._spare.append(oldest)
        canvas = self._spare.pop() if self._spare else Canvas(layout=self._layout)
        for spare in self._spare:
            resize(spare, 1, 1)
        resize(canvas, width, height)
        return canvas


def on_screen(width: int) -> Layout:
    """Of a canvas that is seen: as large as its pixels, or smaller where there is no room."""
    return Layout(
        width=f"{width}px",
        height="auto",  # keeps the aspect
        max_width="100%",
        flex="0 0 auto",
        align_self="flex-start",
    )


def resize(canvas: Canvas, width: int, height: int) -> None:
    """Give a canvas another size, which empties it; nothing happens if it has that size."""
    with canvas.hold_sync():
        canvas.width, canvas.height = width, height
