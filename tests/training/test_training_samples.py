import json
from itertools import islice

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion

from limnet.training import samples as sequences
from limnet.training.samples import (
    MIN_AREA,
    LabelledVolume,
    SequenceOptions,
    collection_volumes,
    cropped_sequence,
    sequence_stream,
)

SMALL = SequenceOptions(length=5, size=32)


def rng(seed=0):
    return np.random.default_rng(seed)


def labelled(slices=9, **options):
    """A leaning box, label 1, through all slices, and a small one, label 2, in the middle three."""
    labels = np.zeros((slices, 96, 80), np.uint8)
    for index in range(slices):
        labels[index, 20 + 3 * index : 60 + 3 * index, 30:70] = 1
    labels[slices // 2 - 1 : slices // 2 + 2, 65:90, 5:25] = 2
    return LabelledVolume(labels, (1, 2), **options)


def first(count, *arguments):
    return list(islice(sequence_stream(*arguments), count))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_first_slice_of_every_sequence_shows_its_target(share):
    options = SequenceOptions(length=5, size=32, shapes_share=share)
    for sequence in first(15, rng(), [labelled()], options):
        images, target = sequence
        assert target[0].sum() >= MIN_AREA and target.dtype == torch.bool
        assert images.shape == target.shape == (5, 32, 32) and images.dtype == torch.float32
        assert images.min() >= 0 and images.max() <= 1


def test_equal_generators_give_equal_streams_and_others_do_not():
    def images(seed):
        return torch.stack([s.images for s in first(6, rng(seed), [labelled()], SMALL)])

    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))


@pytest.mark.parametrize("still", [0.0, 1.0])
def test_image_and_labels_are_cropped_alike(monkeypatch, still):
    monkeypatch.setattr(sequences, "degrade", lambda rng, images: images)
    volume = labelled()
    both = [LabelledVolume(volume.labels, (1,), (volume.labels == 1).astype(np.float32))]
    # a pixel of the crop is one pixel of the slice or more
    shares = {"synthetic_share": 0.0, "joined_share": 0.0, "still_share": still}
    shares |= {"painted_share": 0.0, "wide_share": 0.0, "framed_share": 0.0}
    options = SequenceOptions(5, 16, shapes_share=0.0, **shares)
    for sequence in first(20, rng(), both, options):
        images, target = sequence.images.numpy(), sequence.target.numpy()
        shown = images > 0.5 * images.max()  # the window's jitter dims what was 1
        # they may differ by interpolation, which is along the target's outline
        for image, mask in zip(shown, target, strict=True):
            plus = np.ones((3, 3))
            assert not (image & ~binary_dilation(mask, plus)).any()
            assert not (binary_erosion(mask, plus, border_value=1) & ~image).any()


@pytest.mark.parametrize(
    # the window's lower end moves by up to 15 % of its width, its upper end by -20 % to 40 %
    ("hounsfield", "least", "most"),
    [(-1000, 0, 0), (-160, 0, 0.15 / 0.95), (240, 0.85 / 1.25, 1), (1000, 1, 1)],
)
def test_the_window_is_shown_as_0_to_1(monkeypatch, hounsfield, least, most):
    monkeypatch.setattr(sequences, "degrade", lambda rng, images: images)
    labels = np.ones((5, 64, 64), np.uint8)
    images = np.full(labels.shape, hounsfield, np.int16)
    volume = LabelledVolume(labels, (1,), images, (-160.0, 240.0))
    options = SequenceOptions(5, 8, synthetic_share=0.0, painted_share=0.0, wide_share=0.0)
    for seed in range(10):
        shown = cropped_sequence(rng(seed), volume, options)
        assert least - 1e-6 <= shown.images.min() and shown.images.max() <= most + 1e-6


def test_some_sequences_are_black_outside_a_field_that_holds_the_target():
    def black(share):
        options = SequenceOptions(length=2, size=32, framed_share=share)
        found = [(images == 0).all(dim=0) for images, _ in first(20, rng(), [labelled()], options)]
        return np.mean([outside.float().mean() for outside in found])

    assert black(0.0) < 0.1 < black(1.0)
    options = SequenceOptions(length=2, size=32, framed_share=1.0)
    for images, target in first(20, rng(), [labelled()], options):
        outside = (images == 0).all(dim=0)
        assert (target & outside).float().mean() < 0.05


def test_some_sequences_follow_a_shape_that_was_painted_over_the_image():
    volume = labelled()
    volume = LabelledVolume(volume.labels, (1,), np.zeros(volume.labels.shape, np.float32))
    shown = []
    for share in (0.0, 1.0):
        options = SequenceOptions(2, 64, painted_share=share, synthetic_share=0.0, still_share=0.0)
        sequences = [cropped_sequence(rng(seed), volume, options) for seed in range(10)]
        pairs = [(s.images[s.target], s.images[~s.target]) for s in sequences if s.target.any()]
        shown.append(np.mean([abs((a.mean() - b.mean()).item()) for a, b in pairs]))
    assert shown[0] < 0.05 < shown[1]


def test_some_sequences_follow_two_labels_that_touch():
    labels = np.zeros((3, 64, 64), np.uint8)
    labels[:, 20:40, 20:30], labels[:, 20:40, 30:40], labels[:, 20:40, 40:50] = 1, 2, 3
    volume = LabelledVolume(labels, (1, 2), (labels / 4).astype(np.float32))  # 3 is no target
    shares = {"still_share": 1.0, "painted_share": 0.0, "synthetic_share": 0.0, "fitted_share": 1.0}
    for joined in (0.0, 1.0):
        options = SequenceOptions(1, 64, joined_share=joined, **shares)
        for seed in range(5):
            rows, columns = cropped_sequence(rng(seed), volume, options).target[0].nonzero().T
            sides = sorted(float(each.max() - each.min()) for each in (rows, columns))
            assert sides[0] / sides[1] > 0.7 if joined else sides[0] / sides[1] < 0.8


def shown_slices(volume, options, seeds=10):
    """Which slices each sequence shows, when the intensity of slice i is i / 10."""
    for seed in range(seeds):
        images = cropped_sequence(rng(seed), volume, options).images
        yield [image.mean().item() for image in images]


def test_still_sequences_repeat_one_slice_and_others_move_on(monkeypatch):
    monkeypatch.setattr(sequences, "degrade", lambda rng, images: images)
    labels = np.ones((9, 64, 64), np.uint8)
    images = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None, None] / 10, labels.shape)
    volume = LabelledVolume(labels, (1,), images, (-1.0, 2.0))
    shares = {"synthetic_share": 0.0, "wide_share": 0.0}
    still, moving = (SequenceOptions(5, 16, still_share=share, **shares) for share in (1.0, 0.0))
    assert all(np.ptp(shown) < 1e-6 for shown in shown_slices(volume, still))
    assert all(np.ptp(shown) > 1e-2 for shown in shown_slices(volume, moving))


@pytest.mark.parametrize("slices", [1, 2, 3, 9])
def test_a_sequence_turns_round_at_the_ends_of_the_volume(slices):
    for seed in range(20):
        generator = rng(seed)
        start = int(generator.integers(slices))
        indices = sequences._slice_indices(generator, start, slices, 12, still=False)
        assert indices[0] == start
        assert indices.min() >= 0 and indices.max() < slices
        assert np.abs(np.diff(indices)).max() <= 2


def test_every_target_label_is_as_likely_however_large():
    volume = labelled()
    chosen = [sequences._target_voxel(rng(seed), volume) for seed in range(100)]
    assert 30 < [label for label, _ in chosen].count(2) < 70
    assert all(volume.labels[tuple(centre)] == label for label, centre in chosen)


def test_wrong_inputs_are_refused():
    labels = labelled().labels
    with pytest.raises(ValueError, match="at least one target label"):
        LabelledVolume(labels, ())
    with pytest.raises(ValueError, match="must have one shape"):
        LabelledVolume(labels, (1,), np.zeros((9, 96, 81)))
    with pytest.raises(ValueError, match=r"none of the target labels \(7,\)"):
        first(1, rng(), [LabelledVolume(labels, (7,))], SequenceOptions(5, 32, shapes_share=0.0))


def write_case(folder, may_train, names, image=True):
    """A collection of one case, "pt_5": every label fills one slice of 4 x 4."""
    labels = np.zeros((4, 4, len(names) + 1), np.uint8)
    labels[:, :, 1:] = 10 * np.arange(1, len(names) + 1)
    (folder / "pt_5").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / "pt_5" / "label.nii.gz")
    if image:
        data = labels.astype(np.int16) - 1000
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / "pt_5" / "image.nii.gz")
    named = {str(10 * (index + 1)): name for index, name in enumerate(names)}
    about = {"title": folder.name, "labels": named, "may_train_weights": may_train}
    (folder / "collection.json").write_text(json.dumps(about))


def test_volumes_of_collections_have_their_labels_numbered_anew(tmp_path):
    write_case(tmp_path / "aorta_ct", True, ["aorta", "PTV56", "cord"])
    write_case(tmp_path / "maps", True, ["femur"], image=False)
    scan, label_map = collection_volumes(tmp_path)
    # treatment targets are not seen in an image, and no target
    assert scan.targets == (1, 2) and scan.window == (-160, 240)
    assert [int(labels.max()) for labels in scan.labels] == [0, 1, 0, 2]
    assert scan.images[3].max() == 30 - 1000
    assert label_map.images is None and label_map.targets == (1,)


def test_what_is_held_out_or_may_not_be_trained_on_is_left_out(tmp_path):
    write_case(tmp_path / "abdomen_ct", True, ["liver"])
    write_case(tmp_path / "headneck_ct", True, ["cord"])
    write_case(tmp_path / "others_ct", False, ["cord"])
    assert collection_volumes(tmp_path) == []
