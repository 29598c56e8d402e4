"""Named settings: each is a function whose docstring says what it is for and what comes out."""

from collections.abc import Callable

from alexnet.config import Settings
from alexnet.errors import UsageError


def paper() -> Settings:
    """Train as the paper says (section 5): for ImageNet, 90 epochs, the network of the paper.

    Every default of `Settings` is the paper's, so this changes nothing.
    """
    return Settings()


def small() -> Settings:
    """Train from scratch on a few thousand images, in minutes to an hour.

    Same networks, loss and momentum; other start weights, a rate that rises and falls within the
    run, smaller steps, windows of any size. docs/train.md has what each of them is worth.
    """
    return Settings(
        model="auto",
        epochs=20,
        batch_size=32,
        optimizer="adamw",
        lr=0.0005,
        layer_lr={"conv1": 0.015},  # 1 / 64: as if pixels were scaled to a deviation of 1
        weight_decay=0.05,
        schedule="cosine",
        warmup_epochs=1.0,
        init="he",
        min_crop_scale=0.6,
        label_smoothing=0.1,
    )


def code_2012() -> Settings:
    """Train as the 2012 code did for its net #145, which logged 40.66 % / 18.21 % (ten views).

    Rates and epochs are those noted in layer-params-145.cfg:169-181: after 25 epochs and 51 the
    weights' rate is divided by 10; after 67 conv1 slows to 1e-5 and the colour jitter ends; after
    72 conv1 stands still; after 79 the others go on at 1e-5; the end is after 91. Biases learn at
    0.02 all the time (epsB) and do not decay.
    """
    return Settings(
        model="alexnet_2012",
        epochs=91,
        bias_lr=2.0,
        bias_decay=False,
        schedule="steps",
        later=(
            "26:lr=0.001",
            "26:bias_lr=20",
            "52:lr=0.0001",
            "52:bias_lr=200",
            "68:layer_lr=conv1=0.1",
            "68:lighting=0",
            "73:layer_lr=conv1=0",
            "80:lr=0.00001",
            "80:bias_lr=2000",
        ),
        lighting_rescale=True,
        crop_block=32,
    )


def cifar10() -> Settings:
    """Train the paper's CIFAR-10 nets in an hour of two CPU cores rather than 520 epochs.

    Rates, decay and momentum are those of the 2012 files (AN layer-params-conv-local-13pct.cfg);
    their three rates are kept in the proportion of the epochs, not in number.
    """
    return Settings(
        model="cifar10_11",
        epochs=50,
        lr=0.001,
        bias_lr=2.0,
        weight_decay=0.0,
        layer_decay={"local3": 0.004, "local4": 0.004, "fc10": 0.004},
        bias_decay=False,
        schedule="steps",
        drop_epochs=(40, 45),
        lighting=0.0,
    )


def large_batch() -> Settings:
    """Train on ImageNet with batches of 8,192, for many devices: LARS after a warm-up.

    Rate, trust coefficient, decay, schedule, epochs and warm-up (600 steps are 4 epochs) are those
    of the authors of LARS for this network with batch normalisation (borisgin/nvcaffe at 448ad5b,
    models/alexnet_bn/solver_8K.prototxt). Their LARS scales biases like weights; here it does not,
    so biases have a rate of their own: the paper's 0.01 times the square root of 8,192 / 128.
    docs/scaling.md has what is known of the accuracy.
    """
    return Settings(
        epochs=100,
        batch_size=8192,
        optimizer="lars",
        lr=10.0,
        bias_lr=0.008,
        bias_decay=False,
        schedule="poly",
        warmup_epochs=4.0,
    )


RECIPES: dict[str, Callable[[], Settings]] = {
    "paper": paper,
    "2012": code_2012,
    "small": small,
    "cifar10": cifar10,
    "large_batch": large_batch,
}

FITTING = (("alexnet", 224), ("alexnet_small", 56), ("cifar10_11", 24))
"""What the model "auto" stands for: the first whose input fits the stored images."""


def list_recipes() -> list[str]:
    """List the names that `recipe` takes."""
    return list(RECIPES)


def recipe(name: str) -> Settings:
    """Return the settings called `name`. Raises `UsageError` for an unknown name."""
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; the recipes are: {', '.join(RECIPES)}")
    return RECIPES[name]()


def fitting_model(size: int) -> str:
    """Name the largest network whose input fits images of side `size` in pixels."""
    for name, crop in FITTING:
        if crop <= size:
            return name
    raise UsageError(f"no network takes images of side {size}; prepare the data with --size 32")
