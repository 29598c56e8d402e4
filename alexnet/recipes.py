"""Recipes: named settings. Each docstring has the purpose, command, hardware, time and result."""

from collections.abc import Callable
from dataclasses import replace

from alexnet.config import Override, Settings
from alexnet.errors import UsageError


def paper() -> Settings:
    """Train as the paper says (section 5): ImageNet, the paper's network, 90 epochs.

    Every default of `Settings` is the paper's, so this changes nothing.

    Command: alexnet train data/imagenet runs/paper --recipe paper
    Hardware and time: two GTX 580, five to six days (P 5).
    Result: top-1 error 40.7 % on the validation images with ten views (P table 2). Not run here:
    it needs ImageNet.
    """
    return Settings()


def code_2012() -> Settings:
    """Train as the 2012 code did for its net #145.

    Rates and epochs are those noted in layer-params-145.cfg:169-181: after epochs 25 and 51 the
    weights' rate is divided by 10; after 67 conv1 slows to 1e-5 and the colour jitter ends; after
    72 conv1 stops; after 79 the other layers continue at 1e-5; training ends after 91. Biases learn
    at 0.02 throughout (epsB) and do not decay.

    Command: alexnet train data/imagenet runs/2012 --recipe 2012
    Hardware and time: two GTX 580, five to six days (P 5).
    Result: the log ends at top-1 and top-5 errors of 40.66 and 18.21 % with ten views. Not run
    here: it needs ImageNet.
    """
    return Settings(
        model="alexnet_2012",
        epochs=91,
        bias_lr=2.0,
        bias_decay=False,
        schedule="steps",
        overrides=(
            Override(26, "lr", 0.001),
            Override(26, "bias_lr", 20.0),
            Override(52, "lr", 0.0001),
            Override(52, "bias_lr", 200.0),
            Override(68, "layer_lr", {"conv1": 0.1}),
            Override(68, "lighting", 0.0),
            Override(73, "layer_lr", {"conv1": 0.0}),
            Override(80, "lr", 0.00001),
            Override(80, "bias_lr", 2000.0),
        ),
        lighting_rescale=True,
        crop_block=32,
    )


def small() -> Settings:
    """Train from scratch on a few thousand images, in minutes to an hour.

    Networks, loss and momentum are unchanged. Initial weights, optimiser, schedule, batch size and
    crops differ; docs/train.md measures what each contributes.

    Command: alexnet train data/clothing runs/clothing --recipe small --model alexnet --epochs 24
    Hardware and time: one CPU core, 65 minutes for 3,068 photographs.
    Result: top-1 error 18.3 % on 372 test images, 10 classes (results/clothing).
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


def fine_tune() -> Settings:
    """Train on a few hundred photographs, from convolutions that have learned on ImageNet.

    As `small`, with torchvision's network: its linear layers begin anew and learn alone for two
    epochs, so that their first, large gradients leave the convolutions as they are. Then all learn,
    the convolutions at a tenth of the rate.

    Command: alexnet train data/photos runs/photos --init imagenet --recipe fine_tune
    Hardware and time: one CPU core, 1 to 2 minutes for 300 photographs.
    Result: top-1 error 16.8 % on Imagenette, 28.5 % on clothes (results/fine_tuning).
    """
    convolutions = ("conv2", "conv3", "conv4", "conv5")
    return replace(
        small(),
        model="one_weird_trick",
        epochs=10,
        layer_lr=dict.fromkeys(("conv1", *convolutions), 0.0),
        overrides=(Override(3, "layer_lr", {"conv1": 0.0015, **dict.fromkeys(convolutions, 0.1)}),),
    )


def cifar10() -> Settings:
    """Train the paper's CIFAR-10 networks in an hour of two CPU cores instead of 520 epochs.

    Rates, decay and momentum are those of the 2012 files (AN layer-params-conv-local-13pct.cfg).
    The three rates last the same shares of the training as there.

    Command: alexnet train data/cifar10 runs/cifar10 --recipe cifar10 --epochs 26
        --set drop_epochs=20,23
    Hardware and time: one CPU core, 13 minutes.
    Result: not run here to its end. With the recipe small the network reaches 17.3 % with one view
    and 13.5 % with ten, in an hour of one core (results/shipped_net).
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
    """Train on ImageNet with batches of 8,192 on many devices: LARS after a warm-up.

    Rate, trust coefficient, decay, schedule, epochs and warm-up (600 steps are 4 epochs) are those
    of the authors of LARS for this network with batch normalisation (borisgin/nvcaffe at 448ad5b,
    models/alexnet_bn/solver_8K.prototxt). Their LARS scales biases like weights; here it does not,
    so biases have a rate of their own: the paper's 0.01 times the square root of 8,192 / 128.

    Command: alexnet train data/imagenet runs/large --recipe large_batch --parallel data
    Hardware and time: docs/scaling.md estimates it for several devices.
    Result: not run here: it needs ImageNet. docs/scaling.md has the published accuracies.
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
    "fine_tune": fine_tune,
    "cifar10": cifar10,
    "large_batch": large_batch,
}


def list_recipes() -> list[str]:
    """List the names that `recipe` accepts."""
    return list(RECIPES)


def recipe(name: str) -> Settings:
    """Return the settings called `name`. Raises `UsageError` for an unknown name."""
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; the recipes are: {', '.join(RECIPES)}")
    return RECIPES[name]()
