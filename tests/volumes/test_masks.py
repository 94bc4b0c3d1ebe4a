import numpy as np
import pytest

from limnet.volumes.masks import PackedMask, PackedMasks

SHAPE = (5, 11, 19)


def blobs(seed=0):
    """Slices with a random box of random pixels; the last one is empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros(SHAPE, dtype=bool)
    for mask in masks[:-1]:
        top, left = rng.integers(6), rng.integers(10)
        mask[top : top + 5, left : left + 9] = rng.random((5, 9)) < 0.5
    return masks


@pytest.mark.parametrize("seed", range(5))
def test_what_was_packed_comes_back(seed):
    masks = blobs(seed)
    packed = PackedMasks.pack(masks)
    assert np.array_equal(packed, masks)
    assert (packed.shape, packed.dtype, packed.ndim, len(packed)) == (SHAPE, bool, 3, 5)
    assert packed.areas.tolist() == masks.sum(axis=(1, 2)).tolist()
    assert packed.any() and not PackedMasks.empty(SHAPE).any()
    for mine, mask in zip(packed, masks, strict=True):
        assert np.array_equal(mine, mask)


def test_a_full_mask_and_single_pixels_at_the_corners_come_back():
    for place in [(slice(None), slice(None)), (0, 0), (-1, -1), (0, -1), (-1, 0)]:
        mask = np.zeros(SHAPE[1:], dtype=bool)
        mask[place] = True
        assert np.array_equal(PackedMask.pack(mask).unpack(mask.shape), mask)


@pytest.mark.parametrize(
    "place",
    [
        0,
        -1,
        np.int64(2),
        slice(1, 4),
        [3, 1],
        np.array([True, False, True, False, False]),
        (2, slice(3, 9), slice(None, 7)),
        (slice(None), 4),
        (slice(None), -1),
        (slice(None), slice(None), 8),
        (slice(1, 3), slice(2, 5), 3),
        ([1, 2], slice(None), slice(2, 4)),
        (1, 2, 3),
    ],
    ids=str,
)
def test_they_are_indexed_as_an_array(place):
    masks = blobs()
    found, expected = PackedMasks.pack(masks)[place], masks[place]
    assert np.array_equal(found, expected) and np.shape(found) == np.shape(expected)


@pytest.mark.parametrize("place", [5, (slice(None), 11), (slice(None), slice(None), 19)], ids=str)
def test_what_lies_outside_is_an_index_error(place):
    with pytest.raises(IndexError):
        PackedMasks.pack(blobs())[place]


def test_every_row_and_column_of_all_slices_can_be_cut():
    masks = blobs()
    packed = PackedMasks.pack(masks)
    for row in range(SHAPE[1]):
        assert np.array_equal(packed[:, row], masks[:, row])
    for column in range(SHAPE[2]):
        assert np.array_equal(packed[:, :, column], masks[:, :, column])


def test_what_comes_out_is_the_callers_own():
    masks = blobs()
    packed = PackedMasks.pack(masks)
    for out in (packed[0], packed[:], np.asarray(packed), next(iter(packed))):
        out[...] = True
    assert np.array_equal(packed, masks)
    masks[...] = False
    assert packed.any()


def test_slices_that_differ_are_found_and_chosen_without_unpacking():
    first, second = blobs(), blobs()
    second[2, 10, 18] ^= True
    one, other = PackedMasks.pack(first), PackedMasks.pack(second)
    assert one.differs(other).tolist() == [False, False, True, False, False]
    mixed = one.where(np.array([True, False, False, True, True]), other)
    assert np.array_equal(mixed, second)
    assert mixed.slices[2] is other.slices[2] and mixed.slices[0] is one.slices[0]


def test_replaced_slices_leave_the_others_shared():
    packed, drawn = PackedMasks.pack(blobs()), np.ones(SHAPE[1:], dtype=bool)
    changed = packed.replaced({3: drawn})
    assert changed[3].all() and changed.slices[0] is packed.slices[0] and not packed[3].all()


def test_an_object_takes_a_bit_a_pixel_of_its_box():
    masks = np.zeros((20, 512, 512), dtype=bool)
    masks[5:15, 100:200, 100:260] = True
    packed = PackedMasks.pack(masks)
    assert sum(len(each.bits) for each in packed.slices) == 10 * 100 * 160 / 8
    assert PackedMasks.pack(packed) is packed
    assert "slice_shape=(512, 512)" in repr(packed) and len(repr(packed)) < 100


@pytest.mark.parametrize(
    "masks", [np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE[1:], dtype=bool), [[True]], None]
)
def test_what_are_no_masks_is_refused(masks):
    with pytest.raises(ValueError, match=r"must be bool \(slices, height, width\)"):
        PackedMasks.pack(masks)
