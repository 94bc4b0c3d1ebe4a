import time

import nibabel
import numpy as np
import pytest

from limnet.volumes import Volume
from limnet.volumes import lazy as mapped
from limnet.volumes.lazy import MOST_PAGES, LazyImages, is_mapped, subsampled_view

SHAPE = (6, 5, 4)  # columns, rows, slices of the file
ROUND = np.diag([0.7, 0.8, 3.0, 1.0])
AFFINES = {
    "RAS": ROUND,
    "LPS": np.diag([-0.7, -0.8, 3.0, 1.0]),
    "sagittal": ROUND[[2, 0, 1, 3]],
    "slices along the first axis": np.diag([3.0, 0.7, 0.8, 1.0]),
}


def write(path, data, affine=ROUND, slope=None):
    order = ">" if data.dtype.byteorder == ">" else "<"
    image = nibabel.Nifti1Image(data, affine, nibabel.Nifti1Header(endianness=order))
    image.header.set_data_dtype(data.dtype)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    if slope is not None:
        raw = bytearray(path.read_bytes())
        raw[112:120] = np.array(slope, dtype="<f4").tobytes()  # scl_slope, scl_inter
        path.write_bytes(raw)
    return path


def numbers(dtype=np.int16):
    return (np.arange(120) * 11 % 307 - 30).astype(dtype).reshape(SHAPE)


def both(path, **options):
    return (Volume.read(path, in_memory=in_memory, **options) for in_memory in (False, True))


def sparse(path, shape):
    """A file of zeros in HU - 1 that takes no room on the disk."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["pixdim"][1:4], header["vox_offset"], header["magic"] = 1, 352, b"n+1"
    header["xyzt_units"], header["sform_code"] = 2, 1
    header.set_sform(np.eye(4), code=1)
    with path.open("wb") as file:
        file.write(header.binaryblock)
        file.truncate(352 + 2 * int(np.prod(shape, dtype=np.int64)))
    return path


KINDS = {
    "int16": (np.int16, None),
    "uint8": (np.uint8, None),
    "other byte order": (">i2", None),
    "float32": (np.float32, None),
    "float64": (np.float64, None),
    "scaled": (np.int16, (2, -1024)),
    "scaled by a fraction": (np.uint8, (0.1, 0.3)),
    "scaled float": (np.float32, (0.1, 0.3)),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
@pytest.mark.parametrize(("dtype", "slope"), KINDS.values(), ids=KINDS.keys())
def test_a_volume_in_its_file_is_the_one_in_memory(affine, dtype, slope, tmp_path):
    path = write(tmp_path / "image.nii", numbers(dtype), affine, slope)
    there, here = both(path)
    assert is_mapped(there.images) and not is_mapped(here.images)
    assert (there.images.shape, there.images.dtype) == (here.images.shape, here.images.dtype)
    assert (there.images.ndim, len(there.images)) == (3, len(here.images))
    assert np.array_equal(there.images, here.images)
    for place in (1, [2, 0], slice(1, 3), (0, 2), (slice(None), 1), ([1], slice(2), slice(2))):
        assert np.array_equal(there.images[place], here.images[place])
    assert all(np.array_equal(*pair) for pair in zip(there.images, here.images, strict=True))
    assert np.array_equal(there.rgb([1, 0]), here.rgb([1, 0]))
    assert np.array_equal(there.rgb(), here.rgb())
    assert (there.digest, there.modality, there.window) == (here.digest, here.modality, here.window)


def test_only_whole_numbers_as_they_are_used_are_a_plain_memory_map(tmp_path):
    plain = Volume.read(write(tmp_path / "plain.nii", numbers()), in_memory=False)
    assert isinstance(plain.images, np.memmap) and not plain.images.flags.writeable
    for name, data in (("float", numbers(np.float32)), ("swapped", numbers(">i2"))):
        volume = Volume.read(write(tmp_path / f"{name}.nii", data), in_memory=False)
        assert isinstance(volume.images, LazyImages)


def test_masks_and_labels_fit_a_volume_in_its_file(tmp_path):
    volume = Volume.read(write(tmp_path / "image.nii", numbers()), in_memory=False)
    masks = np.asarray(volume.images) > 100
    for name in ("masks.nii", "masks.nii.gz"):
        volume.save_masks(masks, tmp_path / name)
        assert np.array_equal(volume.read_labels(tmp_path / name), masks)
    small = volume.read_labels(tmp_path / "masks.nii", dtype=np.uint8)
    assert small.dtype == np.uint8 and np.array_equal(small, masks)
    volume.save_masks(300 * masks.astype(np.int16), tmp_path / "large.nii")
    with pytest.raises(ValueError, match="whole numbers that uint8 holds"):
        volume.read_labels(tmp_path / "large.nii", dtype=np.uint8)


def test_large_files_stay_where_they_are_and_small_ones_are_read(tmp_path, monkeypatch):
    path = write(tmp_path / "image.nii", numbers())
    assert not is_mapped(Volume.read(path).images)
    monkeypatch.setattr("limnet.volumes.readers.LARGE", 239)  # bytes; it has 240
    assert is_mapped(Volume.read(path).images)
    assert not is_mapped(Volume.read(path, in_memory=True).images)
    packed = write(tmp_path / "image.nii.gz", numbers())
    assert not is_mapped(Volume.read(packed).images)


def test_what_is_compressed_or_a_folder_cannot_stay_in_its_file(tmp_path):
    write(tmp_path / "image.nii.gz", numbers())
    for path in (tmp_path / "image.nii.gz", tmp_path):
        with pytest.raises(ValueError, match=r"only an uncompressed .nii .* convert it"):
            Volume.read(path, in_memory=False)


@pytest.mark.parametrize("in_memory", [True, False, None])
def test_a_file_that_is_cut_off_is_refused_when_it_is_opened(in_memory, tmp_path):
    path = write(tmp_path / "image.nii", numbers())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"it is cut off: .* 592 bytes, but there are 591"):
        Volume.read(path, in_memory=in_memory)


def test_what_is_too_large_for_the_memory_is_told_what_helps(tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError("unable to allocate 20 GiB")

    path = write(tmp_path / "image.nii.gz", numbers())
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "__array__", full)
    with pytest.raises(ValueError, match=r"20 GiB; an uncompressed .nii is read slice by slice"):
        Volume.read(path)


def test_a_voxel_that_is_not_finite_is_refused_once_its_slice_is_used(tmp_path):
    data = np.zeros((6, 5, 100), np.float32)
    data[2, 3, 50] = np.nan
    volume = Volume.read(write(tmp_path / "image.nii", data), in_memory=False, window=(0, 1))
    assert not volume.rgb([49, 51]).any()
    with pytest.raises(ValueError, match=r"got 1 NaN or infinite of 30 in .*image.nii"):
        volume.rgb([50])


def test_a_memory_map_of_numpy_stays_one(tmp_path):
    images = np.moveaxis(numbers(), 2, 0)
    np.save(tmp_path / "images.npy", images)
    volume = Volume.from_array(np.load(tmp_path / "images.npy", mmap_mode="r"))
    assert is_mapped(volume.images) and np.array_equal(volume.images, images)
    np.save(tmp_path / "fractions.npy", images / 2)
    volume = Volume.from_array(np.load(tmp_path / "fractions.npy", mmap_mode="r"))
    assert is_mapped(volume.images) and np.array_equal(volume.images, images / 2)


def test_an_array_that_fits_is_not_copied():
    images = np.moveaxis(numbers(), 2, 0)
    assert not np.shares_memory(Volume.from_array(images).images, images)  # not slice by slice
    images = np.ascontiguousarray(images)
    assert np.shares_memory(Volume.from_array(images).images, images)


def test_complex_numbers_are_refused_wherever_they_are(tmp_path):
    path = write(tmp_path / "image.nii", numbers(np.complex64))
    for in_memory in (True, False):
        with pytest.raises(ValueError, match="images must be numbers"):
            Volume.read(path, in_memory=in_memory)


def test_a_large_volume_is_told_apart_by_some_of_its_planes(tmp_path, monkeypatch):
    data = np.zeros((3, 4, 100), np.int16)
    whole = Volume.read(write(tmp_path / "image.nii", data)).digest
    monkeypatch.setattr("limnet.volumes.volume.LARGE", 100)
    monkeypatch.setattr(mapped, "PLANES", 5)  # of 100: 0, 25, 50, 74 and 99
    there, here = both(tmp_path / "image.nii")
    assert there.digest == here.digest != whole
    assert there.has_digest(there.digest) and not there.has_digest("0" * 64)
    assert there.has_digest(whole)  # as a journal has it that was begun earlier
    for at, is_seen in ((25, True), (99, True), (26, False)):
        changed = data.copy()
        changed[1, 2, at] = 1
        other = Volume.read(write(tmp_path / "other.nii", changed), in_memory=False)
        assert (other.digest != there.digest) == is_seen


def test_20_gigabytes_open_in_seconds(tmp_path):
    path = sparse(tmp_path / "image.nii", (2300, 2300, 2000))
    assert path.stat().st_size > 20e9
    begin = time.monotonic()
    volume = Volume.read(path)
    assert volume.images.shape == (2000, 2300, 2300) and volume.images.dtype == np.int16
    assert not volume.images[[0, 1999], 1000, 1000].any()
    assert volume.rgb([1000]).shape == (1, 3, 2300, 2300)
    assert time.monotonic() - begin < 20  # 1 second; machines may be busy


def test_a_sparse_file_cut_short_is_refused_at_once(tmp_path):
    path = sparse(tmp_path / "image.nii", (2300, 2300, 2000))
    with path.open("rb+") as file:
        file.truncate(10**10)
    with pytest.raises(ValueError, match="21160000352 bytes, but there are 10000000000"):
        Volume.read(path)


def test_what_lies_scattered_over_a_large_file_is_shown_coarsely(tmp_path):
    images = Volume.read(sparse(tmp_path / "image.nii", (2300, 2300, 2000)), window=(0, 1)).images
    rows = subsampled_view(images, lambda array: array[:, 7])  # each row lies in one piece
    assert rows.shape == (2000, 2300)
    read = []
    thin = subsampled_view(images, lambda array: watch(array[:, :, 7], read))
    assert thin.shape == (2000, 2300)
    assert MOST_PAGES / 4 < np.prod(read) <= MOST_PAGES


def watch(view, read):
    """The view, which notes the shape of what is taken of it."""

    class Watched(np.ndarray):
        def __getitem__(self, place):
            part = np.asarray(self)[place]
            read[:] = part.shape
            return part

    return view.view(Watched)


def test_coarse_pixels_are_those_of_the_image(tmp_path, monkeypatch):
    for name, dtype in (("whole", np.int16), ("fractions", np.float64)):
        path = write(tmp_path / f"{name}.nii", numbers(dtype))
        images = Volume.read(path, in_memory=False).images
        fine = subsampled_view(images, lambda array: array[:, :, 2])
        assert np.array_equal(fine, np.asarray(images)[:, :, 2])
        monkeypatch.setattr(mapped, "MOST_PAGES", 1)
        monkeypatch.setattr(mapped, "PAGE", 1)
        coarse = subsampled_view(images, lambda array: array[:, :, 2])
        step = int(np.ceil(np.sqrt(4 * (1 + 5))))  # 5 > 4: one pixel stands for all
        assert coarse.shape == (4, 5) and step == 5 and (coarse == fine[0, 0]).all()
        monkeypatch.undo()
