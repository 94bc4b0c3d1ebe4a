import numpy as np
import pytest
import torch

from limnet.method import fusion
from limnet.method.evidence import FusionFeatures
from limnet.method.fusion import crop_to_masks, fuse_packed, fuse_rounds
from limnet.networks.quality_net import QualityNet, QualityNetConfig
from limnet.volumes.masks import PackedMasks


def prefers(*previous_better):
    """A quality network that has made up its mind, for each slice it is asked about in turn."""
    answers = iter(previous_better)
    return lambda images, previous, current: torch.tensor([next(answers) for _ in images])


class Slices:
    """Black slices, and the indices that were asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, slice_indices):
        self.asked.append(slice_indices)
        return torch.zeros(len(slice_indices), 3, 4, 4)


def rounds(slices):
    """A round of full masks, then a round of empty ones."""
    return torch.ones(slices, 4, 4, dtype=bool), torch.zeros(slices, 4, 4, dtype=bool)


def random_rounds(slices, generator):
    boxes = torch.zeros(2, slices, 40, 60, dtype=bool)
    for mask in boxes.flatten(0, 1):
        top, left = torch.randint(0, 25, (2,), generator=generator).tolist()
        mask[top : top + 15, left : left + 30] = True
    return torch.rand(slices, 3, 40, 60, generator=generator), *boxes


def quality_net():
    torch.manual_seed(0)
    return QualityNet(QualityNetConfig("resnet10", width=4)).eval()


def test_keeps_the_previous_mask_where_it_is_better():
    fused, previous_better = fuse_rounds(prefers(0.9, 0.1, 0.8), Slices(), *rounds(3))
    assert fused[:, 0, 0].tolist() == [True, False, True]
    torch.testing.assert_close(previous_better, torch.tensor([0.9, 0.1, 0.8]))


def test_a_tie_goes_to_the_current_round():
    fused, _ = fuse_rounds(prefers(0.5), Slices(), *rounds(1), threshold=0.5)
    assert not fused.any()


@pytest.mark.parametrize(("tau", "keeps"), [(0.125, True), (0.25, False), (0.375, False)])
def test_only_a_probability_above_the_threshold_keeps_the_previous_mask(tau, keeps):
    fused, _ = fuse_rounds(prefers(0.25), Slices(), *rounds(1), threshold=tau)
    assert fused.all() == keeps


def test_fusion_is_equations_2_to_4_written_out(generator):
    images, previous, current = random_rounds(5, generator)
    network, tau = quality_net(), 0.45
    fused, _ = fuse_rounds(network, images.__getitem__, previous, current, threshold=tau)
    for i in range(5):
        one = slice(i, i + 1)
        crops = crop_to_masks(images[one], previous[one], current[one])
        p_i = network(*crops).item()  # Eq. 2
        m_i = previous[i] if p_i > tau else current[i]  # Eq. 4
        assert torch.equal(fused[i], m_i)


def test_only_slices_that_changed_are_asked_about():
    previous, current = rounds(5)
    current[[0, 2, 3]] = True
    slices = Slices()
    fused, previous_better = fuse_rounds(prefers(0.9, 0.1), slices, previous, current)
    assert slices.asked == [[1, 4]]
    assert fused[:, 0, 0].tolist() == [True, True, True, True, False]
    torch.testing.assert_close(previous_better, torch.tensor([0.5, 0.9, 0.5, 0.5, 0.1]))


def test_rounds_that_agree_need_no_network():
    previous, _ = rounds(3)
    slices = Slices()
    fused, previous_better = fuse_rounds(prefers(), slices, previous, previous)
    assert slices.asked == [] and torch.equal(fused, previous)
    assert previous_better.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_batch_size_does_not_change_the_result(batch_size, generator):  # Eq. 3
    images, previous, current = random_rounds(5, generator)
    network = quality_net()
    _, one_by_one = fuse_rounds(network, images.__getitem__, previous, current, batch_size=1)
    _, batched = fuse_rounds(network, images.__getitem__, previous, current, batch_size=batch_size)
    torch.testing.assert_close(batched, one_by_one)
    answers = prefers(0.9, 0.2, 0.7, 0.1, 0.6)
    fused, _ = fuse_rounds(answers, Slices(), *rounds(5), batch_size=batch_size)
    assert fused[:, 0, 0].tolist() == [True, False, True, False, True]


def packed(masks):
    return PackedMasks.pack(masks.numpy())


@pytest.mark.parametrize("batch_size", [2, 16])
def test_packed_masks_are_fused_as_whole_arrays_are(batch_size, generator):
    images, previous, current = random_rounds(5, generator)
    previous[3] = current[3]
    network, how = quality_net(), {"threshold": 0.45, "batch_size": batch_size}
    fused, better = fuse_rounds(network, images.__getitem__, previous, current, **how)
    both = packed(previous), packed(current)
    fused_too, better_too = fuse_packed(network, images.__getitem__, *both, **how)
    assert np.array_equal(fused_too, fused) and better_too.tolist() == better.tolist()


def test_what_the_user_has_given_is_not_asked_about():
    slices, both = Slices(), [packed(each) for each in rounds(4)]
    fused, better = fuse_packed(prefers(0.9, 0.8), slices, *both, given=(1, 2))
    assert slices.asked == [[0, 3]] and fused.areas.tolist() == [16, 0, 0, 16]
    assert better.tolist() == pytest.approx([0.9, 0.5, 0.5, 0.8])


def test_of_large_slices_fewer_are_compared_at_once(monkeypatch):
    monkeypatch.setattr(fusion, "MOST_PIXELS", 40)  # two slices of 16
    slices, both = Slices(), [packed(each) for each in rounds(3)]
    fuse_packed(prefers(0.9, 0.1, 0.8), slices, *both)
    assert slices.asked == [[0, 1], [2]]


def test_rounds_of_different_volumes_are_refused():
    previous, _ = rounds(3)
    _, current = rounds(2)
    with pytest.raises(Exception, match="slices"):
        fuse_rounds(prefers(0.5, 0.5, 0.5), Slices(), previous, current)
    with pytest.raises(ValueError, match=r"same slices, got \(3, 4, 4\) and \(2, 4, 4\)"):
        fuse_packed(prefers(), Slices(), packed(previous), packed(current))


def box(rows, columns, size=(200, 240)):
    mask = torch.zeros(1, *size, dtype=bool)
    mask[:, slice(*rows), slice(*columns)] = True
    return mask


def test_a_small_object_fills_the_crop():
    mask = box((50, 90), (170, 210))
    _, previous, current = crop_to_masks(torch.zeros(1, 3, 200, 240), mask, mask)
    assert previous.shape == current.shape == (1, 1, 96, 96)
    # the crop's side is 1.4 times that of the object
    assert current.mean().item() == pytest.approx(1 / 1.4**2, rel=0.02)
    assert mask.float().mean().item() < 0.04


def test_a_tiny_object_is_shown_with_its_surroundings_pixel_by_pixel(generator):
    images = torch.rand(1, 3, 60, 80, generator=generator)
    mask = box((20, 28), (30, 38), size=(60, 80))
    crop, previous, _ = crop_to_masks(images, mask, torch.zeros_like(mask))
    # 32 pixels around the middle, (24, 34), each of them three times as large
    torch.testing.assert_close(crop[:, :, 1::3, 1::3], images[:, :, 8:40, 18:50])
    assert torch.equal(previous[0, 0, 1::3, 1::3] > 0.5, mask[0, 8:40, 18:50])


def test_the_crop_holds_both_masks():
    previous, current = box((20, 40), (30, 60)), box((100, 120), (150, 180))
    _, first, second = crop_to_masks(torch.zeros(1, 3, 200, 240), previous, current)
    side = 1.4 * 150 / 96  # slice pixels a crop pixel
    assert first.sum().item() * side**2 == pytest.approx(20 * 30, rel=0.05)
    assert second.sum().item() * side**2 == pytest.approx(20 * 30, rel=0.05)


def test_masks_stay_aligned_with_the_image():
    previous, current = box((13, 71), (131, 200)), box((40, 90), (100, 160))
    images = (previous | current)[:, None].float().expand(-1, 3, -1, -1)
    crop, first, second = crop_to_masks(images, previous, current)
    assert torch.equal(crop[:, :1] > 0.5, (first > 0.5) | (second > 0.5))


def test_beyond_the_border_there_is_image_but_no_mask():
    images, mask = torch.full((1, 3, 60, 80), 0.7), box((0, 8), (0, 8), size=(60, 80))
    crop, previous, _ = crop_to_masks(images, mask, mask)
    torch.testing.assert_close(crop, torch.full_like(crop, 0.7))
    inside = previous[0, 0] > 0.5
    # 32 pixels around the middle of 8, each three times as large: 12 of them before the border
    assert not inside[:36].any() and not inside[:, :36].any() and inside[37:59, 37:59].all()


def test_empty_masks_are_shown_with_the_whole_slice():
    images, empty = torch.rand(1, 3, 60, 80), torch.zeros(1, 60, 80, dtype=bool)
    crop, previous, current = crop_to_masks(images, empty, empty)
    assert crop.isfinite().all() and not previous.any() and not current.any()


def test_a_network_gets_the_evidence_of_the_slices_that_it_is_asked_about():
    previous, current = (packed(masks) for masks in rounds(3))  # full, then empty
    told = []

    def quality_net(images, previous, current, evidence):
        told.append(evidence)
        return torch.zeros(len(images))

    given = {1: np.ones((4, 4), dtype=bool)}
    evidence = FusionFeatures.of(previous, current, given, Slices())
    fuse_packed(quality_net, Slices(), previous, current, given=given, evidence=evidence)
    np.testing.assert_array_equal(told[0], evidence.on([0, 2], Slices()([0, 2])))
    assert (told[0][:, :2] > 0).all()  # larger, liker to the one shown
