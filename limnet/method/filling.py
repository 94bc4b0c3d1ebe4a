"""Features filled in the background, so that a first round finds what a later one would (ours)."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

from limnet.method.features import SliceFeatures


class FeaturePrefetcher:
    """A thread that computes features while the user looks for the next place to click.

    It leaves the processor to whoever asks for it (`paused`), and what others need no more room
    than there is: it ends when the budget of the features is spent.
    """

    def __init__(self) -> None:
        """Nothing is filled yet."""
        self._turn = Lock()  # held while a slice is computed
        self._go, self._stop = Event(), Event()
        self._thread: Thread | None = None

    def start(self, features: SliceFeatures, around: int) -> None:
        """Fill these features from a slice outward, instead of those that were being filled."""
        self.stop()
        self._stop = stop = Event()
        self._go.set()
        self._thread = Thread(
            target=self._fill, args=(features, around, stop), name="filling", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End after the slice under way."""
        self._stop.set()
        self._go.set()
        self.wait()

    def wait(self, seconds: float | int | None = None) -> None:
        """Until all is filled or there is no more room."""
        if self._thread is not None:
            self._thread.join(seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is computed meanwhile; begins when the slice under way is done."""
        self._go.clear()
        try:
            with self._turn:
                yield
        finally:
            self._go.set()

    def _fill(self, features: SliceFeatures, around: int, stop: Event) -> None:
        kept = features.kept
        for index in outward(len(features), around):
            self._go.wait()
            if stop.is_set():
                return
            if index in features:
                continue
            with self._turn:
                size = features[index].num_bytes
            if kept.num_bytes + size > kept.max_bytes:
                return


def outward(slices: int, around: int) -> Iterator[int]:
    """All slices, the nearest to one of them first."""
    yield from sorted(range(slices), key=lambda index: abs(index - around))
