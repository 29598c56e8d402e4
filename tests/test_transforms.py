"""Crops, flips and colours against the same done image by image with numpy and Pillow."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.config import Settings
from alexnet.errors import UsageError
from alexnet.transforms import (
    AugmentParams,
    Preprocessing,
    augment,
    sample_augment,
    take_view,
    views,
)

SIZE, CROP = 32, 24
IMAGES = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)


def preprocessing(**changes: object) -> Preprocessing:
    mean = torch.from_numpy(np.random.default_rng(1).uniform(90, 140, (3, SIZE, SIZE)))
    vectors = ((0.6, 0.0, 0.8), (0.0, 1.0, 0.0), (-0.8, 0.0, 0.6))
    values = Preprocessing(SIZE, CROP, mean.float(), (10.0, 20.0, 50.0), vectors)
    return dataclasses.replace(values, **changes)  # type: ignore[arg-type]


def test_views_are_cut_where_numpy_cuts_them() -> None:
    prep = preprocessing()
    mean = prep.mean_image.numpy()[:, 4:28, 4:28]
    for view in views(SIZE, CROP, 10):
        cut = IMAGES[:, view.top : view.top + CROP, view.left : view.left + CROP]
        cut = (cut[:, :, ::-1] if view.flip else cut).transpose(0, 3, 1, 2) - mean
        ours = take_view(torch.from_numpy(IMAGES), view, prep)
        np.testing.assert_allclose(ours.numpy(), cut, atol=1e-4)


def test_other_counts_of_views_are_refused() -> None:
    with pytest.raises(UsageError, match="1 or 10 views, not 5"):
        views(SIZE, CROP, 5)


def test_training_windows_are_cut_where_numpy_cuts_them() -> None:
    prep, settings = preprocessing(), Settings()
    draws = sample_augment(settings, prep, 3, np.arange(6))
    ours = augment(torch.from_numpy(IMAGES), draws, prep, settings).numpy()
    mean = prep.mean_image.numpy()[:, 4:28, 4:28]
    for i in range(6):
        top, left = int(draws.top[i] * 9), int(draws.left[i] * 9)
        cut = IMAGES[i, top : top + CROP, left : left + CROP].astype(float)
        cut = (cut[:, ::-1] if draws.flip[i] else cut).transpose(2, 0, 1)
        np.testing.assert_allclose(ours[i], cut - mean + draws.shift[i][:, None, None], atol=1e-3)


def test_augmentation_of_an_image_does_not_depend_on_its_batch() -> None:
    prep, settings = preprocessing(), Settings()
    together = augment(
        torch.from_numpy(IMAGES), sample_augment(settings, prep, 1, np.arange(6)), prep, settings
    )
    alone = augment(
        torch.from_numpy(IMAGES[4:5]),
        sample_augment(settings, prep, 1, np.array([4])),
        prep,
        settings,
    )
    assert torch.equal(together[4:5], alone)


def test_what_is_switched_off_is_off() -> None:
    prep, settings = preprocessing(), Settings(flip=False, lighting=0.0)
    draws = sample_augment(settings, prep, 1, np.arange(500))
    assert not draws.flip.any()
    assert not draws.shift.any()


@pytest.mark.parametrize("size", [31, 32])
def test_without_random_crops_training_sees_the_view_of_evaluation(size: int) -> None:
    images = torch.from_numpy(IMAGES[:, :size, :size])
    prep = preprocessing(size=size, mean_image=torch.zeros(3, size, size))
    settings = Settings(flip=False, random_crop=False, lighting=0.0)
    ours = augment(images, sample_augment(settings, prep, 1, np.arange(6)), prep, settings)
    torch.testing.assert_close(ours, take_view(images, views(size, CROP, 1)[0], prep))


@pytest.mark.parametrize("flip", [False, True])
def test_scaled_windows_are_those_that_pillow_cuts(flip: bool) -> None:
    # A smooth picture: the two resamplers agree but for how they treat fine detail.
    row, column = np.mgrid[:SIZE, :SIZE] / SIZE
    smooth = np.stack([np.sin(3 * row), np.cos(4 * column), np.sin(2 * row + 3 * column)], -1)
    image = (128 + 100 * smooth).astype(np.uint8)[None]
    prep = preprocessing(mean_image=torch.zeros(3, SIZE, SIZE))
    draws = AugmentParams(
        top=np.array([0.25]),
        left=np.array([0.75]),
        flip=np.array([flip]),
        zoom=np.array([0.9]),
        shift=np.zeros((1, 3), np.float32),
    )
    ours = augment(torch.from_numpy(image), draws, prep, Settings(min_crop_scale=0.5))[0].numpy()
    side, room = 0.9 * SIZE, 0.1 * SIZE
    box = (0.75 * room, 0.25 * room, 0.75 * room + side, 0.25 * room + side)
    theirs = Image.fromarray(image[0]).resize((CROP, CROP), Image.Resampling.BILINEAR, box=box)
    expected = np.asarray(theirs, float).transpose(2, 0, 1)
    np.testing.assert_allclose(ours, expected[:, :, ::-1] if flip else expected, atol=3)


def test_scaled_windows_stay_inside_and_reach_the_edges() -> None:
    prep, settings = preprocessing(), Settings(min_crop_scale=0.5)
    draws = sample_augment(settings, prep, 1, np.arange(4000))
    assert draws.zoom.min() >= 0.5
    assert draws.zoom.min() < 0.51
    assert draws.zoom.max() > 0.99


def test_a_crop_larger_than_the_images_is_refused() -> None:
    with pytest.raises(UsageError, match="larger --size"):
        preprocessing(crop=64)


def test_blocks_of_images_share_window_and_mirroring_but_not_colour() -> None:
    prep, settings = preprocessing(), Settings(crop_block=4)
    images = np.random.default_rng(2).permutation(64)
    whole = sample_augment(settings, prep, 1, images)
    for values in (whole.top, whole.left, whole.flip):
        blocks = values.reshape(16, 4)
        assert (blocks == blocks[:, :1]).all()
    assert len(set(whole.top)) == 16
    assert len({tuple(shift) for shift in whole.shift}) == 64
    # The place in the epoch decides, however the epoch is cut into batches.
    part = sample_augment(settings, prep, 1, images[10:30], first=10)
    assert (part.top == whole.top[10:30]).all()
    assert (part.shift == whole.shift[10:30]).all()


def test_the_jittered_image_is_divided_as_in_2012() -> None:
    prep = preprocessing()
    outputs = []
    for rescale in (False, True):
        settings = Settings(lighting=0.1, lighting_rescale=rescale)
        draws = sample_augment(settings, prep, 1, np.arange(6))
        outputs.append(augment(torch.from_numpy(IMAGES), draws, prep, settings))
    torch.testing.assert_close(outputs[1] * 1.1, outputs[0])
