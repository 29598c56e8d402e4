"""The experiments, with the claim that each is to show. Sources: the paper (P), its code (2012).

Two data sets serve: CIFAR-10 with the paper's four-layer nets, and photographs of ten of ImageNet's
classes (Imagenette) with the eight layers, at a quarter of the side but for `views` in full. Any
prepared data set of that side will do. They are in the order of what they tell, so that a visit to
a GPU that ends early has the most telling ones.
"""

from dataclasses import replace

from alexnet.errors import UsageError
from alexnet.recipes import recipe
from alexnet.reproduce.cifar_experiments import CIFAR10, LRN, MOMENTUM, POOLING, RELU
from alexnet.reproduce.filters import FILTERS
from alexnet.reproduce.plan import Arm, Budget, Budgets, Comparison, Experiment
from alexnet.reproduce.transfer import TRANSFER

EIGHT_LAYERS = replace(
    recipe("small"), model="alexnet_small", min_crop_scale=0.0, label_smoothing=0.0
)
"""Quick to learn, and in data as the paper has it: crops of one size, mirroring, colour jitter."""
EIGHT_BUDGETS: Budgets = {
    "quick": Budget(epochs=10, images=2000, test_images=2000, rates=(1.0, 3.0)),
    "full": Budget(epochs=30, rates=(1.0, 3.0), changes={"batch_size": 128}),
}
NO_AUGMENTATION = {"flip": False, "random_crop": False, "lighting": 0.0}

PAPER = Arm("AlexNet")

DROPOUT = Experiment(
    name="dropout",
    question="Does dropout prevent overfitting?",
    claims=(8,),
    settings=EIGHT_LAYERS,
    side=64,
    arms=(PAPER, Arm("no dropout", {"dropout": 0.0})),
    comparisons=(
        Comparison(
            PAPER.name, "no dropout", '"substantial overfitting" without (P 4.2)', "overfitting"
        ),
        Comparison(PAPER.name, "no dropout", ""),
    ),
    budgets=EIGHT_BUDGETS,
)

AUGMENTATION = Experiment(
    name="augmentation",
    question="Do crops, mirroring and colour jitter reduce overfitting and the error?",
    claims=(17,),
    settings=EIGHT_LAYERS,
    side=64,
    arms=(
        PAPER,
        Arm("no colours", {"lighting": 0.0}),
        Arm("crops only", {"flip": False, "lighting": 0.0}),
        Arm("mirroring only", {"random_crop": False, "lighting": 0.0}),
        Arm("none", NO_AUGMENTATION),
    ),
    comparisons=(
        Comparison(PAPER.name, "no colours", "more than 1 point less (P 4.1)", effect=-0.01),
        Comparison("no colours", "none", '"substantial overfitting" (P 4.1)', "overfitting"),
        Comparison("no colours", "none", ""),
        Comparison("crops only", "none", ""),
        Comparison("mirroring only", "none", ""),
    ),
    budgets=EIGHT_BUDGETS,
)  # fmt: skip

TOWERS = Experiment(
    name="towers",
    question="What do two towers, and their exchange, contribute?",
    claims=(12,),
    settings=EIGHT_LAYERS,
    side=64,
    arms=(
        PAPER,
        Arm("half a network", {"ablate": {"towers": "half"}}),
        Arm("one tower", {"ablate": {"towers": "one"}}),
        Arm("no exchange", {"ablate": {"towers": "apart"}}),
    ),
    comparisons=(
        Comparison(PAPER.name, "half a network", "1.7 points less (P 3.2)", effect=-0.017),
        Comparison(PAPER.name, "no exchange", "1.2 points less (2012, net #150)", effect=-0.012),
        Comparison(PAPER.name, "one tower", "", is_claimed=False),
    ),
    budgets=EIGHT_BUDGETS,
)

DEPTH = Experiment(
    name="depth",
    question="Does removing one of the middle layers raise the error?",
    claims=(24,),
    settings=EIGHT_LAYERS,
    side=64,
    arms=(
        PAPER,
        *(Arm(f"without {conv}", {"ablate": {"without": conv}})
          for conv in ("conv3", "conv4", "conv5")),
    ),
    comparisons=tuple(
        Comparison(PAPER.name, f"without {conv}", "about 2 points less (P 7)", effect=-0.02)
        for conv in ("conv3", "conv4", "conv5")
    ),
    budgets=EIGHT_BUDGETS,
)  # fmt: skip

VIEWS = Experiment(
    name="views",
    question="Do ten views lower the error, and several networks together?",
    claims=(25,),
    settings=EIGHT_LAYERS,
    side=64,
    arms=(PAPER,),
    comparisons=(
        Comparison(
            PAPER.name,
            PAPER.name,
            "37.5 % against 39.0 % (P 6)",
            "test_error_10_views",
            of_second="test_error",
            effect=-0.015,
        ),
        Comparison(
            PAPER.name,
            PAPER.name,
            "38.1 % with five networks against 40.7 % (P 6.1)",
            "test_error_averaged",
            of_second="test_error_10_views",
            effect=-0.026,
        ),
    ),
    budgets={
        "quick": EIGHT_BUDGETS["quick"],
        "full": Budget(
            epochs=30, rates=(1.0,), seeds=5, holds_out=False, side=256,
            changes={"model": "alexnet", "batch_size": 128},
        ),
    },
)  # fmt: skip

ORDER = Experiment(
    name="order",
    question="Does it matter whether pool, normalisation or ReLU comes first?",
    claims=(4,),
    settings=EIGHT_LAYERS,
    side=64,
    arms=(
        PAPER,
        Arm("pool first", {"ablate": {"order": "pool_norm"}}),
        Arm("ReLU last", {"ablate": {"order": "signed"}}),
    ),
    comparisons=(
        Comparison(PAPER.name, "pool first", "", is_claimed=False),
        Comparison(PAPER.name, "ReLU last", "", is_claimed=False),
    ),
    budgets=EIGHT_BUDGETS,
)

CLASSICAL = Experiment(
    name="classical",
    question="Does the network classify better than computer vision before it?",
    claims=(20,),
    settings=EIGHT_LAYERS,
    side=64,
    arms=(
        PAPER,
        Arm("visual words", classifier="words"),
        Arm("HOG", classifier="hog"),
        Arm("pixels", classifier="pixels"),
    ),
    comparisons=(
        Comparison(
            PAPER.name,
            "visual words",
            "37.5 % against 45.7 % (P table 1: SIFT + FVs)",
            effect=-0.082,
        ),
        Comparison(PAPER.name, "HOG", ""),
        Comparison(PAPER.name, "pixels", ""),
    ),
    budgets=EIGHT_BUDGETS,
)

LINEAGE = Experiment(
    name="lineage",
    question="Do the networks that followed AlexNet have lower errors, trained alike?",
    claims=(11, 21),
    settings=EIGHT_LAYERS,
    side=64,
    arms=(
        PAPER,
        Arm("batch norm", {"ablate": {"norm": "batch"}}),
        Arm("VGG-11", {"model": "vgg11_small"}),
        Arm("GoogLeNet", {"model": "googlenet_small"}),
        Arm("ResNet-18", {"model": "resnet18_small"}),
    ),
    comparisons=(
        Comparison("batch norm", PAPER.name, "", is_claimed=False),
        Comparison("VGG-11", PAPER.name, "ILSVRC, top-5: 7.3 % (2014) against 16.4 % (2012)"),
        Comparison("GoogLeNet", PAPER.name, "ILSVRC, top-5: 6.7 % (2014) against 16.4 % (2012)"),
        Comparison("ResNet-18", PAPER.name, "ILSVRC, top-5: 3.6 % (2015) against 16.4 % (2012)"),
    ),
    budgets=EIGHT_BUDGETS,
)
"""The published errors are those of the largest networks of each name, several together."""

EXPERIMENTS = {
    each.name: each
    for each in (
        CIFAR10, RELU, LRN, DROPOUT, AUGMENTATION, VIEWS, TOWERS, LINEAGE, DEPTH, POOLING, MOMENTUM,
        ORDER, CLASSICAL, FILTERS, TRANSFER,
    )
}  # fmt: skip


def experiment(name: str) -> Experiment:
    """Return the experiment called `name`. Raises `UsageError` for an unknown name."""
    if name not in EXPERIMENTS:
        known = ", ".join(EXPERIMENTS)
        raise UsageError(f"there is no experiment {name!r}; there are: {known}")
    return EXPERIMENTS[name]
