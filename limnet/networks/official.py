"""The weights that RITM and XMem publish, as networks of ours (section III-B).

Nobody published LIM-Net's own. Its click net began from RITM's, and its Table VI used XMem-s012 for
propagation. The third network, the quality net, is the small one of `limnet/weights`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from limnet.files import atomic_write
from limnet.networks.checkpoints import KINDS, LITE_FOLDER, load_ritm, load_xmem, save_network

PUBLISHED = "published"  # folder of the files as they were fetched
COPIES = "copies"  # below it: files that are somebody else's copies of the published ones
RITM_LICENCE = "MIT, Copyright (c) 2021 Samsung Electronics Co., Ltd."
XMEM_LICENCE = "MIT, Copyright (c) 2024 Ho Kei Cheng"
XMEM_RELEASE = "https://github.com/hkchengrex/XMem/releases/download/v1.0/"
LARGEST = 1.05  # a file's bytes over its tensors' bytes; names and padding are less than 1 %


@dataclass(frozen=True)
class PublishedWeights:
    """One published file. No publisher states its digest or its exact size."""

    file: str
    kind: str  # which of our networks it becomes
    trained_on: str
    url: str
    copy: str  # somebody else's, for when the file is gone from there; "": none is known
    licence: str
    tensor_bytes: int  # of the tensors that the network must have; the file is a little larger


OFFICIAL = {
    "click": PublishedWeights(
        file="coco_lvis_h32_itermask.pth",
        kind="click",
        trained_on="COCO and LVIS (README of RITM)",
        # README of RITM. Gone since July 2025 (rai-opensource/embodied_gaussians #7, SegNext #10)
        url="https://github.com/saic-vul/ritm_interactive_segmentation/releases/download/v1.0/"
        "coco_lvis_h32_itermask.pth",
        # what Supervisely's application for RITM loads
        copy="https://github.com/supervisely-ecosystem/ritm-interactive-segmentation/releases/"
        "download/v0.1/coco_lvis_h32_itermask.pth",
        licence=RITM_LICENCE,
        tensor_bytes=124_052_444,
    ),
    "propagation": PublishedWeights(
        file="XMem.pth",
        kind="propagation",
        trained_on="static images, YouTubeVOS and DAVIS (docs/TRAINING.md of XMem)",
        url=f"{XMEM_RELEASE}XMem.pth",
        copy="",
        licence=XMEM_LICENCE,
        tensor_bytes=248_881_648,
    ),
    "propagation-s012": PublishedWeights(
        file="XMem-s012.pth",
        kind="propagation",
        trained_on="static images, BL30K, YouTubeVOS and DAVIS (docs/TRAINING.md of XMem)",
        url=f"{XMEM_RELEASE}XMem-s012.pth",
        copy="",
        licence=XMEM_LICENCE,
        tensor_bytes=248_881_648,
    ),
}
SETS = {  # folder -> its click net and propagation net
    "official": ("click", "propagation"),
    "official-s012": ("click", "propagation-s012"),
}


def convert_official(folder: str | Path) -> None:
    """Write `official` and `official-s012` for `load_networks` into the folder.

    What was fetched lies in `published`, or in `published/copies` if it is somebody else's copy. A
    .pth file is a pickle and could run code, so it is read with PyTorch's `weights_only`, which
    builds tensors, plain containers, numbers and text and nothing else. That is enough: XMem's
    files are a bare state dict (its model/trainer.py), RITM's are a state dict beside a `config` of
    text, numbers and truth values, in which even classes stand by their names (its
    isegm/utils/serialization.py and misc.py). So no other type is allowed; a file that asks for one
    is not the published one. With no digest to go by, a file proves itself by its size and by
    having every tensor of the network with its name and shape, and no other.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not the published one.
    """
    folder = Path(folder)
    found = {name: _find(folder / PUBLISHED, weights) for name, weights in OFFICIAL.items()}
    quality = next(LITE_FOLDER.glob("quality*.safetensors"))
    for target, names in SETS.items():
        (folder / target / "README.md").unlink(missing_ok=True)
        for name in names:
            _convert(OFFICIAL[name], found[name], folder / target)
        _write_whole(folder / target / quality.name, quality.read_bytes())
        readme = _readme(target, {name: found[name] for name in names})
        _write_whole(folder / target / "README.md", readme.encode())  # last: all is there


def is_converted(folder: str | Path) -> bool:
    """Whether `convert_official` has written everything into the folder."""
    return all(
        (Path(folder) / name / "README.md").is_file()
        and all(len([*(Path(folder) / name).glob(f"{kind}*.safetensors")]) == 1 for kind in KINDS)
        for name in SETS
    )


def _find(published: Path, weights: PublishedWeights) -> Path:
    """The fetched file, if its size can be that of the published one."""
    paths = [published / weights.file, published / COPIES / weights.file]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{weights.file} must lie in {published}; make weights-official fetches it"
        )
    size = path.stat().st_size
    if not weights.tensor_bytes < size < LARGEST * weights.tensor_bytes:
        raise ValueError(
            f"{path} must have a little more than {weights.tensor_bytes:,} bytes, has {size:,}; "
            "it is not the published file; remove it, then make weights-official"
        )
    return path


def _convert(weights: PublishedWeights, path: Path, target: Path) -> None:
    network = {"click": load_ritm, "propagation": load_xmem}[weights.kind](path)
    about = {
        "source": _source(weights, path),
        "source_sha256": _sha256(path),
        "licence": weights.licence,
        "trained_on": weights.trained_on,
    }
    save_network(network, target / f"{weights.kind}.safetensors", about)


def _source(weights: PublishedWeights, path: Path) -> str:
    return weights.copy if path.parent.name == COPIES else weights.url


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readme(target: str, found: dict[str, Path]) -> str:
    rows = [
        f"| `{weights.kind}.safetensors` | `{weights.file}` | {_source(weights, path)} "
        f"| {path.stat().st_size:,} | `{_sha256(path)}` | {weights.trained_on} "
        f"| {weights.licence} |"
        for weights, path in ((OFFICIAL[name], path) for name, path in found.items())
    ]
    copied = [
        f"`{path.name}` is a copy that somebody else keeps, for the authors have removed theirs "
        "(July 2025). Nothing proves that it is the same to the bit.\n\n"
        for path in found.values()
        if path.parent.name == COPIES
    ]
    return README.format(target=target, rows="\n".join(rows), copied="".join(copied))


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(content)


README = """# Published weights of RITM and XMem, converted

Load them by `load_networks("weights/{target}")`. They are other people's work; limnet changed the
tensors' names and the file format, no number in them.

| file | made of | source | bytes | SHA-256 of what was fetched | trained on | licence |
| --- | --- | --- | --: | --- | --- | --- |
{rows}

The publishers state no digest and no exact size. What was checked: the size is that of the tensors
and a little more, and every tensor that the network needs is there under its published name and
with its shape, and no other. The SHA-256 above is what came here, for comparing with others. A file
that was put into `published/` by hand is listed with the publishers' address all the same.

{copied}`quality_lite.safetensors` is limnet's own small quality net, a copy of the one in
`limnet/weights` (MIT): nobody published one for LIM-Net. It was trained on rounds of limnet's small
networks, not of these, so fusion of rounds with it says little about the paper's.

The networks of RITM and XMem have seen photographs and videos. LIM-Net's authors trained theirs
further on medical images and did not publish the result (section III-B): expect other numbers than
the paper's. For Table VI they took XMem-s012, which is in `official-s012`.

## Licence of RITM and of XMem (MIT)

Copyright (c) 2021 Samsung Electronics Co., Ltd.; Copyright (c) 2024 Ho Kei Cheng

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
