"""`python -m limnet.data.download`: data sets that are open to all, and the official weights."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from limnet.data import DATA_SETS, IMAGE_SETS
from limnet.data.archives import unpack
from limnet.data.catalogue import Entry, catalogue
from limnet.data.fetching import Download, DownloadError, GoneError, fetch
from limnet.data.synthetic.twins import is_twin
from limnet.files import write_whole
from limnet.networks.official import (
    COPIES,
    OFFICIAL,
    PUBLISHED,
    SETS,
    PublishedWeights,
    convert_official,
    is_converted,
)

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
MARKERS = ".fetched"  # folder of the data folder: what was unpacked, when its archive is gone
LISTED = 6  # files that are named one by one
DONE, FAILED, BY_HAND, STOPPED = 0, 1, 2, 130  # exit codes; 130: as by a shell


def main(words: Sequence[str] | None = None) -> int:
    """Fetch what the command line asks for and say so; the exit code."""
    arguments = _parser().parse_args(words)
    try:
        if arguments.what == "weights":
            return fetch_weights(arguments.to)
        if arguments.key is None:
            return _list_data()
        return fetch_data(arguments.key, arguments.to, keep=arguments.keep)
    except (DownloadError, ValueError, OSError) as error:
        print(f"limnet.data.download: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(
            "\nlimnet.data.download: stopped; the same command goes on from here", file=sys.stderr
        )
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m limnet.data.download", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    data = what.add_parser("data", help="a data set that is open to all; without a key their list")
    data.add_argument("key", nargs="?", choices=list(catalogue()), metavar="key")
    data.add_argument("--to", type=Path, help="data folder; otherwise that in LIMNET_DATA")
    data.add_argument("--keep", action="store_true", help="keep archives when they are unpacked")
    weights = what.add_parser("weights", help="the published weights of RITM and XMem, converted")
    weights.add_argument("--to", type=Path, default=Path("weights"), help="folder; now weights")
    return parser


def _list_data() -> int:
    for key, entry in catalogue().items():
        how = "blocked" if entry.blocked else "open" if entry.downloads else "by hand"
        print(f"{key:14} {how:8} {_gigabytes(entry):>8}  {entry.name}; {entry.licence}")
    command = "python -m limnet.data.download data <key>"
    print(f"{command} fetches what is open, and says how to get the others")
    return DONE


def fetch_data(key: str, root: Path | None, *, keep: bool = False) -> int:
    """The data set in the data folder, or instructions where it is not open to all; exit code.

    Args:
        root: the data folder; None: that in LIMNET_DATA.
        keep: the archives stay when they are unpacked.
    """
    entry = catalogue()[key]
    print(f"{entry.name}: {entry.reference}")
    print(f"licence: {entry.licence} (source: {entry.licence_source})")
    print(f"home: {entry.home or '-'}")
    if entry.blocked or not entry.downloads:
        print(entry.blocked or "It is not open to all:")
        print(*(f"{number}. {step}" for number, step in enumerate(entry.steps, 1)), sep="\n")
        return BY_HAND
    root = root or Path(os.environ.get("LIMNET_DATA") or "")
    if root == Path():
        raise ValueError("where to must be said: set LIMNET_DATA to a folder, or pass --to")
    root = root.resolve()
    folder, unpacked = root / entry.folder, _unpacked(entry, root)
    needed = [one for one in entry.downloads if one.file not in unpacked]
    missing = [one for one in needed if not (folder / one.file).is_file()]
    archives = [one for one in needed if one.file.endswith(ARCHIVES)]
    by_hand = archives == [*entry.downloads] and _found(entry, root)
    if by_hand or not (missing or archives):
        print(f"already there: {folder}; nothing is fetched")
        return DONE
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing[:LISTED]:
        size = "size not stated" if one.size is None else f"{one.size:,} bytes"
        print(f"from {one.url} ({size}, {one.digest or 'no digest published'})")
    if len(missing) > LISTED:
        print(f"and {len(missing) - LISTED} more such files")
    free = shutil.disk_usage(folder).free / 1e9
    print(f"to {folder} ({free:.1f} GB free; the whole set: {_gigabytes(entry)} to fetch)")
    if archives:
        print("archives are unpacked beside themselves, which needs about as much room again")
    for one in needed:
        path = _fetch(one, folder)
        if one in archives:
            print(f"unpacking {path.name}")
            _mark(entry, root, one.file, [part.name for part in unpack(path, folder)])
            if not keep:
                path.unlink()
    if (found := _found(entry, root)) is None:
        raise DownloadError(f"{folder} holds all files, but not as {entry.name} is known here")
    print(f"{entry.name} is in {found}")
    return DONE


def _fetch(download: Download, folder: Path) -> Path:
    with tqdm(unit="B", unit_scale=True, desc=Path(download.file).name, leave=False) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return fetch(download, folder, progress=show)


def _gigabytes(entry: Entry) -> str:
    return "? GB" if entry.gigabytes is None else f"{entry.gigabytes:g} GB"


def _found(entry: Entry, root: Path) -> Path | None:
    """Where the adapter finds the data set itself, not its twin."""
    adapter = (DATA_SETS | IMAGE_SETS).get(entry.key)
    if adapter is None or not root.is_dir():
        return None
    found = adapter.find(root)
    twin = found and any(map(is_twin, (found, *found.glob("*/"))))
    return None if twin else found


def _unpacked(entry: Entry, root: Path) -> dict[str, list[str]]:
    """The archives of the data set that were unpacked and what of them is on top, still there."""
    try:
        marks = json.loads((root / MARKERS / f"{entry.key}.json").read_text(encoding="utf-8"))
        return {
            file: names
            for file, names in marks.items()
            if all(Path(n).name == n and (root / entry.folder / n).exists() for n in names)
        }
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}  # never written, or damaged


def _mark(entry: Entry, root: Path, file: str, names: list[str]) -> None:
    (root / MARKERS).mkdir(exist_ok=True)
    marks = {**_unpacked(entry, root), file: names}
    write_whole(root / MARKERS / f"{entry.key}.json", json.dumps(marks, indent=1))


def fetch_weights(folder: Path) -> int:
    """The official weights in the folder, ready for `load_networks`; the exit code."""
    folder = folder.resolve()
    if is_converted(folder):
        print(f"already there: {', '.join(str(folder / name) for name in SETS)}")
        return DONE
    published = folder / PUBLISHED
    published.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    print(f"to {folder} ({free:.1f} GB free)")
    for weights in OFFICIAL.values():
        _fetch_published(weights, published)
    convert_official(folder)
    for name in SETS:
        print(f"{folder / name}: sources, licences and what was checked stand in its README.md")
    print(f"{published} is needed no longer")
    return DONE


def _fetch_published(weights: PublishedWeights, published: Path) -> None:
    """The file from its authors, or where it is gone from there from somebody else."""
    if any((folder / weights.file).is_file() for folder in (published, published / COPIES)):
        print(f"{weights.file} is there already")
        return
    size = f"a little more than {weights.tensor_bytes:,} bytes, no digest published"
    print(f"{weights.file} ({weights.licence}) from {weights.url} ({size})")
    try:
        _fetch(Download(weights.url, weights.file, None, None), published)
    except GoneError as error:
        if not weights.copy:
            raise
        print(f"{error}\nso somebody else's copy is taken: {weights.copy}")
        try:
            _fetch(Download(weights.copy, weights.file, None, None), published / COPIES)
        except GoneError as gone:
            raise DownloadError(
                f"{weights.file} is gone from both places; if you have it, put it into "
                f"{published} and run the same command again"
            ) from gone


if __name__ == "__main__":
    sys.exit(main())
