"""COCO + LVIS, natural images with many instances each (Table III), and its synthetic twin.

Lin et al., "Microsoft COCO", ECCV 2014; Gupta et al., "LVIS", CVPR 2019; lvisdataset.org. Sofiiuk
et al. (RITM, arXiv:2102.06583) joined the two; their annotations are pickles, which can run code
when they are read, so that here both are read from the official files. Which instances and images
are left can therefore differ a little from theirs, which the paper counts in Table III.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from limnet.data.cases import BROKEN, few
from limnet.data.folders import first_folder
from limnet.data.image_sets import ImageLayout, Sample
from limnet.data.synthetic.scenes_2d import Thing, instance_mask, still_life
from limnet.data.synthetic.twins import TWIN_SEEDS

SHAPE = (120, 160)  # of the twin's images
SAME_INSTANCE = 0.8  # intersection over union from which two masks show one instance; ours


class Split(NamedTuple):
    """The files of one split."""

    split: str
    lvis: str
    coco: str
    images: str  # folder


SPLITS = (
    Split("training", "lvis_v1_train.json", "instances_train2017.json", "train2017"),
    # LVIS validates on images of COCO's training set too (lvis-api #32); RITM's 4,751 are without
    Split("test", "lvis_v1_val.json", "instances_val2017.json", "val2017"),
)
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OSError, ArithmeticError)
UNREADABLE += (RecursionError,)
IMAGE_URL = re.compile(r"https?://[^/]+/(train2017|val2017)/(\d{12})\.jpg")


class Annotation(NamedTuple):
    """One instance, packed: a split of LVIS has more than a million."""

    image_id: int
    segmentation: tuple[np.ndarray, ...] | dict[str, Any]


def _samples(folder: Path) -> list[Sample]:
    """The images with an instance in LVIS v1 by split and number.

    The annotations are read once, which for the real set takes about a minute and 2 GB of memory
    (measured on a tenth of it); masks are made and images opened when they are loaded. Where
    COCO's own `instances_*.json` lie beside LVIS's files, their instances are added that LVIS
    lacks. Crowds are left out.
    """
    with_coco = any(_annotation_file(folder, split.coco) for split in SPLITS)
    names = [name for split in SPLITS for name in (split.lvis, split.coco)[: 1 + with_coco]]
    if missing := [name for name in names if not _annotation_file(folder, name)]:
        raise ValueError(
            f"{folder} must hold the annotations of both splits, but lacks {few(missing)}; unpack"
            " them there"
        )
    return [sample for split in SPLITS for sample in _of_split(folder, split)]


def _of_split(folder: Path, split: Split) -> Iterator[Sample]:
    lvis_file, coco_file = (_annotation_file(folder, name) for name in (split.lvis, split.coco))
    sizes, lvis = _annotations(lvis_file)
    coco = _annotations(coco_file)[1] if coco_file else {}
    shown = sorted(
        (name, size)
        for (images, name), size in sizes.items()
        if images == split.images and int(name) in lvis
    )
    if not shown:
        raise ValueError(
            f"{lvis_file} must list images of {split.images} with instances, but lists none;"
            " unpack it again"
        )
    for name, size in shown:
        path, number = folder / split.images / f"{name}.jpg", int(name)
        read = partial(_masks, path, size, tuple(lvis[number]), tuple(coco.get(number, ())))
        yield Sample(name, split.split, path, (), read, "" if coco else "LVIS")


def _annotations(
    path: Path,
) -> tuple[dict[tuple[str, str], tuple[int, int]], dict[int, list[Any]]]:
    """{(folder, name): (height, width)} of the images and {image id: segmentations}.

    The file is untrusted: of a path only what IMAGE_URL allows is used.
    """
    try:
        content = json.loads(path.read_bytes(), object_hook=_packed)
        sizes = dict(_image(about) for about in content["images"])
        by_image = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation is not None:
                by_image[annotation.image_id].append(annotation.segmentation)
    except UNREADABLE as error:
        raise ValueError(
            f"{path} must be a whole JSON file with the images and annotations of COCO 2017 or"
            f" LVIS v1, but: {type(error).__name__} {error}; unpack it again"
        ) from error
    return sizes, dict(by_image)


def _packed(item: dict[str, Any]) -> Any:
    """An annotation without what is not needed, None for a crowd; other objects as they are."""
    if "segmentation" not in item:
        return item
    if item.get("iscrowd"):
        return None
    shape = item["segmentation"]
    if not isinstance(shape, dict):
        shape = tuple(np.array(outline, np.float32) for outline in shape)
    return Annotation(int(item["image_id"]), shape)


def _image(about: dict[str, Any]) -> tuple[tuple[str, str], tuple[int, int]]:
    url = IMAGE_URL.fullmatch(about["coco_url"])
    if not url or int(url[2]) != about["id"]:
        raise ValueError(f"image {about['id']} has the address {about['coco_url']!r}")
    return (url[1], url[2]), (int(about["height"]), int(about["width"]))


def _masks(
    path: Path, size: tuple[int, int], lvis: tuple[Any, ...], coco: tuple[Any, ...]
) -> Bool[np.ndarray, "instances height width"]:
    """The instances of LVIS that cover a pixel, then those of COCO that are none of them."""
    try:
        with Image.open(path) as image:  # its header alone
            height, width = image.height, image.width
    except BROKEN as error:
        raise ValueError(f"{path} must be an image, but: {error}; unpack it again") from error
    if (height, width) != size:
        raise ValueError(
            f"{path} must have the size in its annotations, got {(height, width)} and {size};"
            " unpack it again"
        )
    masks = [instance_mask(each, height, width) for each in lvis]
    known = np.array([mask for mask in masks if mask.any()], bool).reshape(-1, height, width)
    extra = [instance_mask(each, height, width) for each in coco]
    new = [mask for mask in extra if mask.any() and _overlap(known, mask) < SAME_INSTANCE]
    return np.concatenate([known, np.array(new, bool).reshape(-1, height, width)])


def _overlap(masks: np.ndarray, mask: np.ndarray) -> float:
    """The largest intersection over union of a mask with others."""
    shared, joined = (both.sum(axis=(1, 2)) for both in (masks & mask, masks | mask))
    return float((shared / joined).max(initial=0))


def _annotation_file(folder: Path, name: str) -> Path | None:
    holder = first_folder(folder, ("annotations", "."), lambda part: (part / name).is_file())
    return holder and holder / name


def _draw(seed: int) -> Iterator[tuple[str, bytes]]:
    """Five still lifes for training and three for tests.

    LVIS lacks the first thing of each, COCO the parts of things; of the images in LVIS's
    validation file one lies in `train2017`.
    """
    for index, split in enumerate(SPLITS):
        in_folder = [split.images] * (5 - 2 * index) + [SPLITS[0].images] * index
        listed = []
        for number, images in enumerate(in_folder, 100 * (index + 1)):
            rng = np.random.default_rng(22 * TWIN_SEEDS + 1000 * seed + number)
            image, things = still_life(rng, SHAPE)
            stored = BytesIO()
            Image.fromarray(image).save(stored, "JPEG", quality=90)
            yield f"{images}/{number:012d}.jpg", stored.getvalue()
            listed.append((number, images, things))
        for name, of_lvis in ((split.lvis, True), (split.coco, False)):
            yield f"annotations/{name}", json.dumps(_content(listed, of_lvis=of_lvis)).encode()


def _content(listed: list[tuple[int, str, list[Thing]]], *, of_lvis: bool) -> dict[str, Any]:
    """What an annotation file says, with the fields of LVIS v1 or COCO 2017."""
    size = dict(zip(("height", "width"), SHAPE, strict=True))
    images, annotations = [], []
    for number, folder, things in listed:
        url = f"http://images.cocodataset.org/{folder}/{number:012d}.jpg"
        only = {"neg_category_ids": [], "not_exhaustive_category_ids": [1]}
        images.append({"id": number, "coco_url": url, **size, "license": 1})
        images[-1] |= only if of_lvis else {"file_name": f"{number:012d}.jpg"}
        for thing in things[1:] if of_lvis else [each for each in things if not each.is_part]:
            columns, rows = thing.outline[::2], thing.outline[1::2]
            box = [min(columns), min(rows), np.ptp(columns).item(), np.ptp(rows).item()]
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            about |= {"segmentation": [thing.outline], "bbox": box}
            about["area"] = int(instance_mask([thing.outline], *SHAPE).sum())
            annotations.append(about if of_lvis else {**about, "iscrowd": 0})
        if not of_lvis:  # all is a crowd
            runs = {"counts": [0, SHAPE[0] * SHAPE[1]], "size": [*SHAPE]}
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            annotations.append({**about, "segmentation": runs, "iscrowd": 1})
    categories = [{"id": 1, "name": "thing", "synset": "thing.n.01", "frequency": "f"}]
    content = {"info": {"description": "synthetic"}, "licenses": [{"id": 1, "name": "CC0"}]}
    return {**content, "images": images, "annotations": annotations, "categories": categories}


# the photographs are Flickr's users', each under terms of its own (COCO's terms of use)
COCO_LVIS = ImageLayout(
    name="COCO + LVIS",
    folders=("coco_lvis", "lvis", "LVIS", "coco", "COCO", "."),
    inside=(".",),
    source="LVIS v1 and the images of COCO 2017",
    marks=tuple(f"{where}{split.lvis}" for split in SPLITS for where in ("annotations/", "")),
    samples=_samples,
    draw=_draw,
    twin_images=8,
)
