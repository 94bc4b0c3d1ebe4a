"""What is known of the paper's data sets: licence, size, counts, faults and how to get them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from limnet.data.fetching import Download

CATALOGUE_FILE = Path(__file__).with_name("catalogue.yaml")
OPTIONAL = {"blocked", "downloads"}


@dataclass(frozen=True)
class Entry:
    """One data set of the paper as its publishers describe it."""

    key: str  # as in DATA_SETS or IMAGE_SETS
    name: str
    reference: str
    licence: str  # in the publishers' words where there are any
    licence_source: str  # where these words stand
    home: str  # web page; "" where there is none
    gigabytes: float | int | None  # to download; None: no source states it
    unlocks: tuple[str, ...]  # tables and figures of the paper
    folder: str  # under LIMNET_DATA, into which its files go; "." for LIMNET_DATA itself
    steps: tuple[str, ...]  # how to get it, in this order
    expected: dict[str, int]  # what is counted -> official count
    faults: tuple[str, ...]  # known ones
    blocked: str = ""  # why it cannot be had; "" where it can
    downloads: tuple[Download, ...] = ()  # what is open to all, without an account


@cache
def catalogue() -> dict[str, Entry]:
    """Every data set of the paper by its key, in the order of Table III.

    Raises:
        ValueError: an entry lacks a field or has one too many.
    """
    content = yaml.safe_load(CATALOGUE_FILE.read_text(encoding="utf-8"))
    return {key: _entry(key, about) for key, about in content.items()}


def _entry(key: str, about: dict[str, Any]) -> Entry:
    known = {field.name for field in fields(Entry)} - {"key"}
    if not known - OPTIONAL <= set(about) <= known:
        wrong = sorted((known - OPTIONAL - set(about)) | (set(about) - known))
        raise ValueError(f"an entry must have the fields of Entry, but {key} differs in {wrong}")
    lists = {name: tuple(about[name]) for name in ("unlocks", "steps", "faults")}
    files = tuple(file for one in about.get("downloads", ()) for file in _downloads(one))
    return Entry(**{**about, **lists, "key": key, "downloads": files})


def _downloads(about: dict[str, Any]) -> Iterator[Download]:
    """The file, or one for each number where `numbers` has the first and the last of them."""
    about = dict(about)
    first, last = about.pop("numbers", (0, 0))
    for number in range(first, last + 1):
        names = {name: about[name].format(number=number) for name in ("url", "file")}
        yield Download(**{**about, **names})
