"""The journal: every action of an annotator is in a file beside the image before it is shown."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from limnet.annotator.annotation import Annotation
from limnet.annotator.journal_file import Journal
from limnet.annotator.journal_lines import Action, Header, read_journal
from limnet.networks.checkpoints import LimNet, load_networks
from limnet.volumes import Volume

# actions that predict a prompt mask
PROMPTING = ("click", "clicks", "box", "move_click", "remove_click")

Progress = Callable[[int, int], None]  # actions done, actions in all


def journal_path(image: str | Path) -> Path:
    """Where the journal of an image lies: beside the file, or beside the folder of a series."""
    image = Path(os.path.abspath(image))  # noqa: PTH100 (resolve would follow links)
    ending = next((end for end in (".nii.gz", ".nii") if image.name.lower().endswith(end)), "")
    return image.with_name(image.name[: len(image.name) - len(ending)] + ".limnet.jsonl")


def replay(
    path: str | Path,
    volume: Volume | None = None,
    networks: LimNet | None = None,
    *,
    recompute: bool = True,
) -> Annotation:
    """The annotation that a journal leads to; what cannot be read or done is a warning.

    Args:
        volume: by default the image that the header names, from the journal's folder.
        networks: by default those that come with the package.
        recompute: all masks anew, with as many threads as then and deterministically; False takes
            prompt masks and rounds as they were recorded.

    Raises:
        FileNotFoundError: there is no such journal.
        ValueError: it is no journal, or its image or weights are not at hand.
    """
    path = Path(path)
    header, actions, damage = read_journal(path)
    volume = volume or _read_image(path, header)
    if not volume.has_digest(header["image_sha256"]):
        _check_same("image", volume.digest, header["image_sha256"])
    if networks is None:
        networks = load_networks("lite")
        _check_same("weights", networks.digest, header["weights_sha256"])
    if recompute:
        actions = [
            {key: value for key, value in action.items() if key != "round"}
            for action in actions
            if action["action"] != "seen"
        ]
    annotation = Annotation(volume, networks)
    with _deterministic(header["threads"]) if recompute else nullcontext():
        notices = _perform_all(annotation, actions)
    for notice in ([damage] if damage else []) + notices:
        warnings.warn(f"{path}: {notice}", stacklevel=2)
    return annotation


class Recording:
    """An annotation whose every action goes to a journal first.

    Has `annotation`, `journal` and `notices` for the user.
    """

    def __init__(
        self,
        annotation: Annotation,
        path: str | Path,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Open the journal and do what it holds.

        Args:
            annotation: a new one.
            progress: an exception from it closes the journal.

        Raises:
            ValueError, RuntimeError: as `Journal.open`.
        """
        self.annotation = annotation
        self.journal = Journal.open(path, annotation.volume, annotation.networks)
        self._turn = threading.RLock()  # actions are written in the order in which they are done
        try:
            skipped = _perform_all(annotation, self.journal.actions, progress)
        except BaseException:
            self.journal.close()
            raise
        self.journal.actions = ()  # their masks need memory
        self.notices = [*self.journal.notices, *skipped]

    def perform(self, action: Action) -> Any:
        """Write an action to the journal, then do it; the annotation's answer.

        Raises:
            ValueError, RuntimeError: it cannot be written, and is not done; or it cannot be done,
                and is skipped when the journal is opened again.
        """
        with self._turn:
            self.journal.append(action)
            answer = self.annotation.perform(action)
            with suppress(RuntimeError):  # the action is safe; the next one meets the full disk
                for slice_index in _prompted(action):
                    seen = {"object": action["object"], "slice_index": slice_index}
                    seen["mask"] = self.annotation.session(action["object"]).mask(slice_index)
                    self.journal.append({"action": "seen", **seen}, durable=False)
        return answer

    def close(self) -> None:
        """Let others open the journal."""
        self.journal.close()


def _perform_all(
    annotation: Annotation,
    actions: Sequence[Action],
    progress: Progress = lambda done, total: None,
) -> list[str]:
    """Do what can be done; what the user should know of it."""
    notices, differing = [], 0
    for number, action in enumerate(actions, start=1):
        try:
            changed = annotation.perform(action)
            differing += action["action"] == "seen" and changed
        except (ValueError, RuntimeError) as error:
            notices.append(f"entry {number} ({action['action']}) was skipped: {error}")
        progress(number, len(actions))
    if differing:
        notices.append(
            f"{differing} prompt masks were taken as they were seen, since the weights or the"
            " machine differ"
        )
    return notices


def _prompted(action: Action) -> list[int]:
    """The slices whose prompt mask an action changes."""
    if action["action"] not in PROMPTING:
        return []
    if "slice_index" in action:
        return [action["slice_index"]]
    clicks = [action[key] for key in ("click", "to") if key in action]
    return sorted({click[0] for click in (*clicks, *action.get("clicks", ()))})


def _read_image(path: Path, header: Header) -> Volume:
    name = header["image"]
    if name in ("", "..") or "\\" in name or Path(name).name != name:
        raise ValueError(
            f"the image must be a plain name of a file beside {path}, got {name!r}; pass the volume"
        )
    window = tuple(header["window"])
    return Volume.read(path.parent / name, slice_axis=header["slice_axis"], window=window)


def _check_same(what: str, digest: str, expected: str) -> None:
    if digest != expected:
        raise ValueError(
            f"a journal must be replayed with its own {what}, SHA-256 {expected}, got {digest};"
            f" pass the {what} that it was made with"
        )


@contextmanager
def _deterministic(threads: int) -> Iterator[None]:
    """PyTorch deterministic, with this number of threads."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(threads)
    # `use_deterministic_algorithms` would import PyTorch's compiler, which takes seconds
    torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
