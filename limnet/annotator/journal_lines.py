"""The lines of a journal: JSON with packed arrays, each ending with a checksum of all so far.

A line that was cut off, changed, removed or moved is seen, and nothing from there on is trusted.
"""

import base64
import json
import zlib
from collections.abc import Iterator
from functools import partial
from math import isfinite, prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from limnet.volumes.masks import PackedMask, PackedMasks

VERSION = 1
START = b'{"limnet_journal":'
CHECKSUM = b',"crc":"%08x"}\n'  # CRC-32 of what stands before the checksums of all lines so far
CHECKSUM_LENGTH = len(CHECKSUM % 0)
LONGEST_HEADER = 2**16  # bytes: more than any file name needs
MOST_VOXELS = 2**35  # files are not trusted, and masks need memory, a bit a voxel
SLICES_AT_ONCE = 8  # of masks: eight of any size are whole bytes
MOST_THREADS = 1024
OWN_KEYS = {"n", "utc", "crc"}  # of a line; the others are the action's
HEADER_TYPES = {
    "limnet_journal": int,  # version of the format
    "image": str,  # name without folder; empty for an array in memory
    "image_sha256": str,
    "shape": list,  # slices, height, width
    "slice_axis": int,  # of the file
    "window": list,  # intensities that the networks see as 0 and 1
    "weights_sha256": str,
    "threads": int,  # of PyTorch
    "utc": str,
    "version": str,  # of the package
}

Header = dict[str, Any]
Action = dict[str, Any]


class Lines(NamedTuple):
    """What could be read of a journal."""

    header: Header | None = None  # None: the file is empty, or nothing but a header cut off
    actions: tuple[Action, ...] = ()
    size: int = 0  # bytes that header and actions take
    checksum: int = 0  # of their last line
    damage: str | None = None  # the line after them, if there is one


def read_journal(path: str | Path) -> tuple[Header, tuple[Action, ...], str | None]:
    """Header, actions, and which line is damaged if one is; nothing is locked or changed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no journal, or one of a newer limnet.
    """
    lines = read_lines(Path(path))
    if lines.header is None:
        raise ValueError(f"a journal must begin with a header, got {path}, which holds nothing yet")
    return lines.header, lines.actions, lines.damage


def read_lines(path: Path) -> Lines:
    """The header and the actions up to the first damaged line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no journal, or one of a newer limnet.
    """
    with path.open("rb") as file:
        line = file.readline(LONGEST_HEADER)
        begun = line.rstrip(b"\0")  # a power cut may leave zeros
        is_begun = START.startswith(begun) or begun.startswith(START)
        if is_begun and not line.endswith(b"\n") and not file.read(1):
            return Lines()
        header, checksum = _read_header(line, path)
        actions: list[Action] = []
        size, damage = len(line), None
        for number, line in enumerate(file, start=1):
            try:
                values, following = open_line(line, checksum, header["shape"])
                if values["n"] != number or type(values["action"]) is not str:
                    raise ValueError(f"line {number + 1} must be action {number}")
                actions.append({key: values[key] for key in values if key not in OWN_KEYS})
            except (ValueError, TypeError, LookupError, zlib.error, RecursionError):
                damage = f"line {number + 1} of {path.name} is damaged or cut off"
                break
            size, checksum = size + len(line), following
    return Lines(header, tuple(actions), size, checksum, damage)


def seal(values: Header, checksum: int, shape: list[int] | None = None) -> tuple[bytes, int]:
    """A line and its checksum.

    Args:
        checksum: of the line before; 0 for a header.
        shape: of the volume; arrays must be of the volume, of one slice, or have a value a slice.

    Raises:
        ValueError: there is a value that JSON cannot hold, or another array.
    """
    try:
        text = json.dumps(
            values, separators=(",", ":"), allow_nan=False, default=partial(_pack, shape=shape)
        )
    except (TypeError, RecursionError) as error:
        raise ValueError(f"a journal holds what JSON can, and arrays: {error}") from error
    body = text.encode("ascii")[:-1]
    checksum = zlib.crc32(body, checksum)
    return body + CHECKSUM % checksum, checksum


def open_line(line: bytes, checksum: int, shape: list[int] | None = None) -> tuple[Any, int]:
    """What `seal` took, and the line's checksum."""
    body = line[:-CHECKSUM_LENGTH]
    checksum = zlib.crc32(body, checksum)
    if line[-CHECKSUM_LENGTH:] != CHECKSUM % checksum:
        raise ValueError("a line must end with its checksum")
    hook = partial(_unpack, shape=shape) if shape else None
    return json.loads(body + b"}", object_hook=hook, parse_constant=_refuse), checksum


def _read_header(line: bytes, path: Path) -> tuple[Header, int]:
    version = None
    try:
        values = json.loads(line) if line.startswith(START) else {}
        version = values.get("limnet_journal")
        header, checksum = open_line(line, 0)
        if _is_header(header):
            return header, checksum
    except (ValueError, RecursionError):
        pass
    if type(version) is int and version > VERSION:
        raise ValueError(
            f"{path} is a journal of version {version}, this limnet reads up to {VERSION}; it was"
            " left as it is: install a newer limnet"
        )
    raise ValueError(
        f"{path} must be a journal of limnet, got another file or one with a damaged first line;"
        " it was left as it is: move it away to begin a new journal"
    )


def _is_header(values: dict[str, Any]) -> bool:
    if any(type(values.get(name)) is not kind for name, kind in HEADER_TYPES.items()):
        return False
    shape, window = values["shape"], values["window"]
    return (
        values["limnet_journal"] == VERSION
        and [type(size) for size in shape] == [int] * 3
        and min(shape) > 0
        and prod(shape) <= MOST_VOXELS
        and [type(limit) for limit in window] == [float] * 2
        and all(isfinite(limit) for limit in window)
        and 0 < values["threads"] <= MOST_THREADS
    )


def _pack(value: Any, shape: list[int] | None) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    is_array = isinstance(value, np.ndarray | PackedMasks)
    is_known = is_array and value.dtype in (np.bool_, np.float32)
    if not is_known or list(value.shape) not in _shapes(shape):
        got = f"{value.dtype} of {value.shape}" if is_array else type(value)
        raise ValueError(
            f"an array must be bool or float32 and have one of the shapes {_shapes(shape)}, got"
            f" {got}"
        )
    name = "bits" if value.dtype == np.bool_ else "float32"
    stream = zlib.compressobj(level=1)
    packed = [stream.compress(part) for part in _parts(value)]
    text = base64.b64encode(b"".join([*packed, stream.flush()])).decode("ascii")
    return {name: text, "shape": list(value.shape)}


def _parts(value: np.ndarray | PackedMasks) -> Iterator[bytes]:
    """The bytes of an array, of masks of the volume a few slices at a time."""
    if value.dtype == np.float32:
        yield value.astype("<f4").tobytes()
    elif len(value.shape) < 3:
        yield np.packbits(value).tobytes()
    else:
        for first in range(0, len(value), SLICES_AT_ONCE):
            yield np.packbits(value[first : first + SLICES_AT_ONCE]).tobytes()


def _unpack(values: dict[str, Any], shape: list[int]) -> Any:
    """An array if it is a packed one, without ever making more bytes than its shape needs."""
    name = next((name for name in ("bits", "float32") if values.keys() == {name, "shape"}), None)
    if name is None:
        return values
    shapes = _shapes(shape)
    size = shapes[shapes.index(values["shape"])]
    data = base64.b64decode(values[name], validate=True)
    if name == "float32":
        [numbers] = _inflated(data, [4 * prod(size)])
        return np.frombuffer(numbers, "<f4").astype(np.float32).reshape(size)
    if len(size) < 3:
        [bits] = _inflated(data, [-(-prod(size) // 8)])
        return _unpacked_bits(bits, size)
    counts = [min(SLICES_AT_ONCE, size[0] - first) for first in range(0, size[0], SLICES_AT_ONCE)]
    sizes = [[count, *size[1:]] for count in counts]
    parts = _inflated(data, [-(-prod(each) // 8) for each in sizes])
    slices = (
        PackedMask.pack(mask)
        for each, bits in zip(sizes, parts, strict=True)
        for mask in _unpacked_bits(bits, each)
    )
    return PackedMasks(tuple(slices), tuple(size[1:]))


def _inflated(data: bytes, lengths: list[int]) -> Iterator[bytes]:
    """Decompressed parts of these lengths, which must be all there is."""
    stream = zlib.decompressobj()
    for length in lengths:
        part = stream.decompress(data, length)
        if len(part) != length:
            raise ValueError(f"an array must have {sum(lengths)} bytes")
        data = stream.unconsumed_tail
        yield part
    if stream.decompress(data, 1) or not stream.eof or stream.unused_data:
        raise ValueError(f"an array must have {sum(lengths)} bytes and no more")


def _unpacked_bits(bits: bytes, size: list[int]) -> np.ndarray:
    flat = np.unpackbits(np.frombuffer(bits, np.uint8), count=prod(size))
    return flat.view(np.bool_).reshape(size)


def _shapes(shape: list[int] | None) -> list[list[int]]:
    """Of masks of the volume, a mask of one slice, and a value for every slice."""
    return [shape, shape[1:], shape[:1]] if shape else []


def _refuse(constant: str) -> None:
    raise ValueError(f"a number must be finite, got {constant}")
