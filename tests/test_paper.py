"""The paper's facts, each with its section, checked on the live network.

Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
NIPS 2012.
"""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from alexnet import optim, recipes, transforms
from alexnet.analysis import summary
from alexnet.config import Settings
from alexnet.images import decode as images
from alexnet.networks import registry as model
from alexnet.networks.layers import LocalResponseNorm

# The colour of ImageNet's training pixels as cuda-convnet2 ships it (make-data/input_meta):
# deviations along the principal directions, and these directions in columns; RGB, 0-255.
IMAGENET_COLOR_STD = (19.7208330491, 37.093888533, 121.7800609929)
IMAGENET_COLOR_VECTORS = (
    (0.4179551317, -0.7125794529, -0.5635104535),
    (-0.8169806184, -0.0235416713, -0.5761843966),
    (0.3973111842, 0.7011963442, -0.5920029644),
)


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return model.create_model("alexnet").eval()


@pytest.fixture(scope="module")
def table(network: nn.Sequential) -> summary.Summary:
    return summary.summarize(network)


@pytest.fixture
def preprocessing() -> transforms.Preprocessing:
    """Images of 256 pixels with a mean of zero, crops of 224, ImageNet's colours."""
    return transforms.Preprocessing(
        256, 224, torch.zeros(3, 256, 256), IMAGENET_COLOR_STD, IMAGENET_COLOR_VECTORS
    )


def row(table: summary.Summary, name: str) -> summary.Row:
    return next(row for row in table.layers if row.name == name)


# Section 2: the data.


def test_p2_short_side_is_scaled_to_256_and_the_centre_cut_out() -> None:
    """P 2: "rescaled the image such that the shorter side was of length 256, and then cropped out
    the central 256x256 patch"."""
    picture = np.zeros((512, 1024, 3), np.uint8)
    picture[:, 256:768] = (10, 200, 90)  # the centre, as wide as the shorter side
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    square = images.load_square(buffer.getvalue(), 256)
    assert square.shape == (256, 256, 3)
    assert (square[:, 4:-4] == (10, 200, 90)).all()  # but for the antialiased edges


def test_p2_the_mean_image_is_subtracted_from_raw_values(
    preprocessing: transforms.Preprocessing,
) -> None:
    """P 2: "subtracting the mean activity over the training set from each pixel"; raw, 0-255."""
    image = torch.full((1, 256, 256, 3), 200, dtype=torch.uint8)
    preprocessing = transforms.Preprocessing(
        256, 224, torch.full((3, 256, 256), 120.5), IMAGENET_COLOR_STD, IMAGENET_COLOR_VECTORS
    )
    view = transforms.take_view(image, transforms.View(16, 16, False), preprocessing)
    assert torch.equal(view, torch.full((1, 3, 224, 224), 79.5))


# Section 3: the architecture.


def test_p3_1_relu_follows_every_layer_but_the_last(table: summary.Summary) -> None:
    """P 3.1, 3.5: "the ReLU non-linearity is applied to the output of every convolutional and
    fully-connected layer"; fc8 feeds the softmax and has none."""
    learned = [row for row in table.layers if row.parameters]
    assert [row.name for row in learned] == [
        *("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    ]
    for layer in learned[:-1]:
        assert (layer.activation or "").startswith("ReLU"), layer.name
    assert learned[-1].activation is None
    assert table.layers[-1].name == "fc8"


@pytest.mark.parametrize("name", ["conv2", "conv4", "conv5"])
def test_p3_2_halves_see_only_their_own_maps(network: nn.Sequential, name: str) -> None:
    """P 3.2, 3.5: the kernels of layers 2, 4 and 5 see the maps "which reside on the same GPU"."""
    first, second = changed_outputs(network.get_submodule(name))
    assert not first
    assert second


def test_p3_2_conv3_sees_all_maps(network: nn.Sequential) -> None:
    """P 3.2, 3.5: the third layer's kernels "are connected to all kernel maps in the second"."""
    assert changed_outputs(network.get_submodule("conv3")) == (True, True)


def changed_outputs(layer: nn.Module) -> tuple[bool, bool]:
    """Tell whether the first and the second half of the outputs change with the last input map."""
    assert isinstance(layer, nn.Conv2d)
    maps = torch.randn(1, layer.in_channels, 7, 7)
    other = maps.clone()
    other[:, -1] += 1
    with torch.no_grad():
        change = (layer(maps) - layer(other)).abs().amax((0, 2, 3)) > 1e-6
    half = layer.out_channels // 2
    return bool(change[:half].any()), bool(change[half:].all())


def test_p3_3_response_normalisation_is_the_formula() -> None:
    """P 3.3: b_i = a_i / (k + alpha sum a_j^2)^beta over j = max(0, i-n/2) ... min(N-1, i+n/2),
    k = 2, n = 5, alpha = 1e-4, beta = 0.75. The sum is not divided by n; N counts all kernels."""
    a = np.random.default_rng(3).normal(scale=100, size=(2, 9, 2, 3))
    ours = LocalResponseNorm()(torch.from_numpy(a)).numpy()
    np.testing.assert_allclose(ours, paper_normalisation(a), rtol=1e-12)
    narrow = LocalResponseNorm()(torch.from_numpy(a).float()).numpy()
    np.testing.assert_allclose(narrow, paper_normalisation(a), rtol=1e-5)


def paper_normalisation(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """The formula of section 3.3, term by term."""
    k, n, alpha, beta = 2, 5, 1e-4, 0.75
    channels = a.shape[1]
    b = np.empty_like(a)
    for image, i, y, x in np.ndindex(a.shape):
        total = 0.0
        for j in range(max(0, i - n // 2), min(channels - 1, i + n // 2) + 1):
            total += a[image, j, y, x] ** 2
        b[image, i, y, x] = a[image, i, y, x] / (k + alpha * total) ** beta
    return b


def test_p3_3_layers_1_and_2_are_normalised_after_relu_and_before_pooling(
    table: summary.Summary,
) -> None:
    """P 3.3 ("after applying the ReLU nonlinearity in certain layers"), 3.5 (layers 1 and 2; pools
    "follow both response-normalization layers as well as the fifth convolutional layer")."""
    names = [row.name for row in table.layers]
    assert [name for name in names if name.startswith("norm")] == ["norm1", "norm2"]
    for block in (["conv1", "relu1", "norm1", "pool1"], ["conv2", "relu2", "norm2", "pool2"]):
        start = names.index(block[0])
        assert names[start : start + 4] == block
    start = names.index("conv5")
    assert names[start : start + 3] == ["conv5", "relu5", "pool5"]


@pytest.mark.parametrize("name", ["pool1", "pool2", "pool5"])
def test_p3_4_pools_overlap(table: summary.Summary, name: str) -> None:
    """P 3.4: s = 2 and z = 3."""
    pool = row(table, name)
    assert (pool.type, pool.kernel, pool.stride) == ("Max Pooling", (3, 3), (2, 2))


def test_p3_5_there_are_60_million_parameters(table: summary.Summary) -> None:
    """P abstract: "60 million parameters"; the sum over the layers of 3.5."""
    assert table.parameters == 60_965_224


def test_p3_5_multiply_adds(table: summary.Summary) -> None:
    """The sum over the layers of P 3.5; nearly all of it in the convolutions."""
    assert table.macs == 724_406_816
    assert sum(row.macs for row in table.layers if row.name.startswith("conv")) == 665_784_864


def test_p3_5_neurons(table: summary.Summary) -> None:
    """P abstract: "650,000 neurons". P 3.5 lists them by layer and prints 253,440 for the first, a
    slip: 55 x 55 x 96 = 290,400, and the other seven are right."""
    counts = [row.neurons for row in table.layers if row.parameters]
    assert counts == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert table.neurons == sum(counts) == 659_272
    assert torch.Size(table.input).numel() == 150_528


@pytest.mark.parametrize(
    ("name", "output", "weight", "parameters", "macs"),
    [
        ("conv1", (96, 55, 55), (96, 3, 11, 11), 34_944, 105_415_200),
        ("conv2", (256, 27, 27), (256, 48, 5, 5), 307_456, 223_948_800),
        ("conv3", (384, 13, 13), (384, 256, 3, 3), 885_120, 149_520_384),
        ("conv4", (384, 13, 13), (384, 192, 3, 3), 663_936, 112_140_288),
        ("conv5", (256, 13, 13), (256, 192, 3, 3), 442_624, 74_760_192),
        ("fc6", (4096,), (4096, 9216), 37_752_832, 37_748_736),
        ("fc7", (4096,), (4096, 4096), 16_781_312, 16_777_216),
        ("fc8", (1000,), (1000, 4096), 4_097_000, 4_096_000),
    ],
)
def test_p3_5_layers(
    network: nn.Sequential,
    table: summary.Summary,
    name: str,
    output: tuple[int, ...],
    weight: tuple[int, ...],
    parameters: int,
    macs: int,
) -> None:
    """P 3.5: kernels "of size 11x11x3", "5x5x48", "3x3x256", "3x3x192", "3x3x192"; 4096 neurons."""
    layer = row(table, name)
    assert (layer.output, layer.parameters, layer.macs) == (output, parameters, macs)
    assert tuple(network.get_submodule(name).get_parameter("weight").shape) == weight
    assert tuple(network.get_submodule(name).get_parameter("bias").shape) == weight[:1]


def test_p3_5_maps_shrink_in_the_pools(table: summary.Summary) -> None:
    """P 3.5 and figure 2: 224, 55, 27, 13 and, before fc6, 6."""
    sides = {name: row(table, name).output[-1] for name in ("conv1", "pool1", "pool2", "pool5")}
    assert table.input == (3, 224, 224)
    assert sides == {"conv1": 55, "pool1": 27, "pool2": 13, "pool5": 6}
    assert row(table, "flatten").output == (9216,)


def test_p3_5_zeros_stand_only_right_and_below(network: nn.Sequential) -> None:
    """P 3.5: 224 with a stride of 4 gives 55 only if the last window reads zeros past the edge.

    Kernels of ones on an image of ones count the pixels under them."""
    conv1 = nn.Conv2d(3, 1, 11, stride=4, bias=False)
    nn.init.ones_(conv1.weight)
    live = network.get_submodule("conv1")
    assert isinstance(live, nn.Conv2d)
    assert (live.stride, live.padding, live.dilation) == ((4, 4), (0, 0), (1, 1))
    before = network[: [name for name, _ in network.named_children()].index("conv1")]
    pixels = conv1(before(ones_image()))[0, 0]
    assert pixels.shape == (55, 55)
    assert (pixels[:54, :54] == 3 * 11 * 11).all()  # the first window begins at the first pixel
    assert (pixels[54, :54] == 3 * 8 * 11).all()  # the last begins at 216 and has eight rows left
    assert (pixels[:54, 54] == 3 * 11 * 8).all()
    assert pixels[54, 54] == 3 * 8 * 8


def ones_image() -> Tensor:
    return torch.ones(1, 3, 224, 224)


def test_p3_5_the_softmax_over_1000_classes(network: nn.Sequential) -> None:
    """P 3.5: "a 1000-way softmax which produces a distribution over the 1000 class labels"."""
    with torch.no_grad():
        probabilities = network(ones_image() * 50).softmax(1)
    assert probabilities.shape == (1, 1000)
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)


def test_p1_shares_of_the_parameters(table: summary.Summary) -> None:
    """P 1 says that each convolutional layer has "no more than 1% of the model's parameters"; two
    have a little more (docs/paper.md)."""
    share = {row.name: row.parameters / table.parameters for row in table.layers}
    above = {name for name in share if name.startswith("conv") and share[name] > 0.01}
    assert above == {"conv3", "conv4"}
    assert max(share[name] for name in above) == pytest.approx(0.0145, abs=1e-4)


# Section 4: reducing overfitting.


def position_images(count: int) -> Tensor:
    """Images whose red is the row and whose green is the column."""
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    image = torch.stack([rows, columns, torch.zeros_like(rows)], dim=2).to(torch.uint8)
    return image.expand(count, 256, 256, 3)


def test_p4_1_random_crops_and_reflections(preprocessing: transforms.Preprocessing) -> None:
    """P 4.1: "random 224x224 patches (and their horizontal reflections)". The paper counts 32 x 32
    x 2 = 2048; all positions are 33 x 33 x 2 = 2178, as in the 2012 code (convdata_jpeg.py:239)."""
    settings = Settings(lighting=0.0)
    assert settings.min_crop_scale == 0  # crops are cut out, never scaled
    seen = set()
    for epoch in range(1, 9):
        params = transforms.sample_augment(settings, preprocessing, epoch, np.arange(50))
        crops = transforms.augment(position_images(50), params, preprocessing, settings)
        assert crops.shape == (50, 3, 224, 224)
        rows, columns = crops[:, 0], crops[:, 1]
        assert torch.equal(rows[:, 1:] - rows[:, :-1], torch.ones(50, 223, 224))
        steps = columns[:, :, 1:] - columns[:, :, :-1]
        assert torch.equal(steps.abs(), torch.ones(50, 224, 223))
        flips = steps[:, 0, 0] < 0
        corners = torch.stack([rows[:, 0, 0], columns.amin((1, 2)), flips], dim=1)
        seen |= {(int(top), int(left), bool(flip)) for top, left, flip in corners.tolist()}
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(33))
    assert 0.45 < sum(flip for _, _, flip in seen) / len(seen) < 0.55
    assert 33 * 33 * 2 == 2178


def test_p4_1_ten_views(preprocessing: transforms.Preprocessing) -> None:
    """P 4.1: "five 224x224 patches (the four corner patches and the center patch) as well as their
    horizontal reflections"."""
    ten = transforms.views(256, 224, 10)
    corners = {(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)}
    assert set(ten) == {(*xy, flip) for xy, flip in itertools.product(corners, (True, False))}
    assert len(ten) == 10
    for view in ten:
        crop = transforms.take_view(position_images(1), view, preprocessing)
        assert crop.shape == (1, 3, 224, 224)
        assert crop[0, 0, 0, 0] == view.top
        assert crop[0, 1, 0, 0] == view.left + (223 if view.flip else 0)


def test_p4_1_one_view_is_the_centre() -> None:
    """P 6, note 5: "without averaging predictions over ten patches" the centre counts alone (2012
    code, layer-params-145-2010.cfg:179-180)."""
    assert transforms.views(256, 224, 1) == [(16, 16, False)]


def test_p4_1_colour_jitter_follows_the_principal_components(
    preprocessing: transforms.Preprocessing,
) -> None:
    """P 4.1: adds "multiples of the found principal components", normal with a deviation of 0.1.

    Their sizes are the standard deviations, not the eigenvalues (docs/paper.md): about 7 levels on
    ImageNet, where the text taken literally gives about 850."""
    shift = transforms.sample_augment(Settings(), preprocessing, 1, np.arange(40_000)).shift
    directions = np.array(IMAGENET_COLOR_VECTORS)
    expected = directions @ np.diag((0.1 * np.array(IMAGENET_COLOR_STD)) ** 2) @ directions.T
    np.testing.assert_allclose(np.cov(shift.T), expected, atol=0.02 * expected.max())
    np.testing.assert_allclose(shift.mean(0), 0, atol=0.15)
    assert shift.std(0) == pytest.approx([7.4, 7.1, 7.8], abs=0.5)


def test_p4_1_colour_jitter_is_one_shift_for_a_whole_image_and_use(
    preprocessing: transforms.Preprocessing,
) -> None:
    """P 4.1: "drawn only once for all the pixels of a particular training image until that image is
    used for training again, at which point it is re-drawn"."""
    settings = Settings(flip=False)
    grey = torch.full((2, 256, 256, 3), 100, dtype=torch.uint8)
    colors = []
    for epoch in (1, 2):
        params = transforms.sample_augment(settings, preprocessing, epoch, np.arange(2))
        crops = transforms.augment(grey, params, preprocessing, settings)
        assert torch.equal(crops, crops[:, :, :1, :1].expand_as(crops))
        colors.append(crops[:, :, 0, 0])
    stacked = torch.cat(colors)
    assert len(torch.unique(stacked, dim=0)) == 4


def test_p4_2_dropout_acts_on_the_outputs_of_fc6_and_fc7(network: nn.Sequential) -> None:
    """P 4.2: "dropout in the first two fully-connected layers", with a probability of 0.5."""
    names = [name for name, _ in network.named_children()]
    drops = [name for name in names if isinstance(network.get_submodule(name), nn.Dropout)]
    assert drops == ["drop6", "drop7"]
    for name in drops:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Dropout)
        assert layer.p == 0.5
        where = names.index(name)
        assert names[where - 2 : where] == [f"fc{name[-1]}", f"relu{name[-1]}"]


def test_p4_2_training_drops_half_and_testing_keeps_the_expectation() -> None:
    """P 4.2: "setting to zero the output of each hidden neuron with probability 0.5"; at test time
    all neurons take part and the expected output is the same."""
    drop = model.create_model("alexnet_small").get_submodule("drop6")
    units = torch.rand(400, 1000)
    torch.manual_seed(1)
    dropped = drop.train()(units)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.5, abs=0.005)
    assert dropped.mean().item() == pytest.approx(drop.eval()(units).mean().item(), rel=0.01)


def test_p4_2_dropout_before_or_after_relu_is_the_same_function() -> None:
    """Claim 9: the description's table has ReLU then dropout, its diagram the reverse."""
    units = torch.randn(64, 4096)
    drop, relu = nn.Dropout(0.5), nn.ReLU()
    torch.manual_seed(2)
    after = drop(relu(units))
    torch.manual_seed(2)
    before = relu(drop(units))
    assert torch.equal(after, before)
    assert not torch.equal(after, relu(units))


# Section 5: details of learning.

ONES = {"conv2", "conv4", "conv5", "fc6", "fc7"}


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"])
def test_p5_start_weights(network: nn.Sequential, name: str) -> None:
    """P 5: weights "from a zero-mean Gaussian distribution with standard deviation 0.01"; biases
    "in the second, fourth, and fifth convolutional layers, as well as in the fully-connected hidden
    layers, with the constant 1" and "in the remaining layers with the constant 0"."""
    layer = network.get_submodule(name)
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    error = weight.numel() ** -0.5  # of the mean in deviations; of the deviation a little less
    assert abs(weight.mean().item()) < 4 * 0.01 * error
    assert weight.std().item() == pytest.approx(0.01, rel=4 * error)
    tail = (weight.abs() > 0.02).float().mean().item()
    assert tail == pytest.approx(0.0455, abs=4 * error)  # a normal distribution's
    assert torch.equal(bias, torch.full_like(bias, 1.0 if name in ONES else 0.0))


def test_p5_the_update_rule() -> None:
    """P 5: v <- 0.9 v - 0.0005 lr w - lr gradient; w <- w + v. Worked by hand over a drop of the
    rate between two steps, where torch.optim.SGD does something else."""
    # First v is -0.0005 * 0.01 * 1 - 0.01 * 2 = -0.020005,
    # then it is 0.9 * -0.020005 - 0.0005 * 0.001 * 0.979995 - 0.001 * 1 = -0.0190049899975.
    expected = [1 - 0.020005, 0.979995 - 0.0190049899975]
    assert two_steps(optim.PaperSGD) == pytest.approx(expected, abs=1e-15)
    # Here the velocity lacks the rate: 0.979995 - 0.001 * (0.9 * 2.0005 + 1.0004899975)
    expected[1] = 0.979995 - 0.0028009399975
    assert two_steps(torch.optim.SGD) == pytest.approx(expected, abs=1e-15)


def two_steps(kind: Callable[..., torch.optim.Optimizer]) -> list[float]:
    """Follow one weight, 1 at first, by a gradient of 2 at rate 0.01 and one of 1 at rate 0.001."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    update = kind([weight], lr=0.01, momentum=0.9, weight_decay=0.0005)
    values = []
    for rate, gradient in ((0.01, 2.0), (0.001, 1.0)):
        update.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        update.step()
        values.append(weight.item())
    return values


def test_p5_the_recipe_of_the_paper(network: nn.Sequential) -> None:
    """P 5: "batch size of 128 examples, momentum of 0.9, and weight decay of 0.0005", "an equal
    learning rate for all layers", 0.01 at first, "roughly 90 cycles"; P 4: crops, flips, jitter."""
    settings = recipes.recipe("paper")
    assert (settings.model, settings.batch_size, settings.epochs) == ("alexnet", 128, 90)
    assert (settings.lr, settings.momentum, settings.weight_decay) == (0.01, 0.9, 0.0005)
    assert (settings.optimizer, settings.schedule, settings.max_drops) == ("paper", "plateau", 3)
    assert (settings.flip, settings.min_crop_scale, settings.lighting) == (True, 0, 0.1)
    assert (settings.dropout, settings.init, settings.warmup_epochs) == (0.5, "model", 0)
    update = optim.make_optimizer(network, settings)
    assert isinstance(update, optim.PaperSGD)
    optim.set_learning_rates(update, 0.01, settings)
    assert {(g["lr"], g["weight_decay"]) for g in update.param_groups} == {(0.01, 0.0005)}
    assert sum(len(g["params"]) for g in update.param_groups) == 16


def test_p5_the_learning_rate_is_divided_when_the_error_stops_falling() -> None:
    """P 5: "divide the learning rate by 10 when the validation error rate stopped improving", three
    times before the end."""
    settings = Settings(patience_epochs=3)
    errors: list[float] = []
    rates = []
    for epoch in range(30):
        rates.append(optim.learning_rate(settings, epoch, errors))
        errors.append(max(0.9 - 0.1 * epoch, 0.4))  # lowest in the sixth epoch, flat from then on
    expected = [0.01] * 9 + [0.001] * 3 + [0.0001] * 3 + [0.00001] * 15
    assert rates == pytest.approx(expected)
