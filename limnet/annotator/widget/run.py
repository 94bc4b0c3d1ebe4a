"""A propagation in a thread of its own, so that one can go on looking; it can be cancelled."""

import threading
import time
from collections.abc import Callable
from contextlib import closing

from limnet.method.propagation import SliceDone, Stopped
from limnet.method.session import Session
from limnet.method.state import Round
from limnet.volumes.masks import PackedMask


class Run:
    """What a thread has done so far of one object's round."""

    def __init__(self, object: str, session: Session) -> None:
        """Nothing runs yet."""
        self.object, self.session = object, session
        self.done, self.total = 0, len(session.volume.images)
        self.arrived: dict[int, PackedMask] = {}  # slice index -> mask, before fusion
        self.ends: list[int] = []  # slices beyond which nothing was looked for
        # the round, which is not yet closed, what went wrong, or None: cancelled
        self.found: Round | Exception | None = None
        self._began = time.monotonic()
        self._stop = threading.Event()

    def start(self, advanced: Callable[[], None], finished: Callable[[], None]) -> None:
        """Compute the round; the functions are called in the thread.

        Args:
            advanced: after each slice.
            finished: when `found` is there.
        """

        def work() -> None:
            try:
                with closing(self.session.propagate_events()) as events:
                    for event in events:
                        match event:
                            case SliceDone():
                                self.arrived[event.index] = PackedMask.pack(event.mask)
                                self.done, self.total = event.done, event.total
                            case Stopped():
                                self.ends.append(event.index)
                            case Round():
                                self.found, self.done = event, self.total
                        advanced()
                        if self._stop.is_set():
                            self.found = None
                            break
            except Exception as error:  # a thread has nobody else to tell
                self.found = error
            finished()

        self._thread = threading.Thread(target=work, name="propagation", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop at the next slice."""
        self._stop.set()

    def wait(self, seconds: float | int | None = None) -> None:
        """Until the thread has ended."""
        self._thread.join(seconds)

    @property
    def slices_a_second(self) -> float:
        return self.done / max(time.monotonic() - self._began, 1e-6)

    def summary(self, closed: Round) -> str:
        """What is said of the round once it is closed."""
        rounds, kept = len(self.session.rounds), int(closed.kept_previous.sum())
        said = f"{self.object}, round {rounds}: {self.total} slices, {self.slices_a_second:.0f} a "
        said += "second" + (f"; fusion kept the round before on {kept}." if rounds > 1 else ".")
        if self.ends:
            where = " and ".join(map(str, sorted(self.ends)))
            said += f" Nothing was looked for beyond slice {where}, as it had ended; click there "
            said += "if it goes on."
        return said
