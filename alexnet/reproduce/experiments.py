"""The experiments, with the claim that each is to show. Sources: the paper (P), its code (2012).

Two data sets serve: CIFAR-10 with the paper's four-layer nets, and photographs of ten of ImageNet's
classes (Imagenette) with the eight layers, at a quarter of the side but for `views` in full. Any
prepared data set of that side will do. They are in the order of what they tell, so that a visit to
a GPU that ends early has the most telling ones.
"""

from dataclasses import replace

from alexnet.config import Settings
from alexnet.errors import UsageError
from alexnet.recipes import recipe
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
FOUR_LAYERS = Settings(
    model="cifar10_13",
    optimizer="paper",
    lr=0.01,
    layer_lr={"conv1": 1 / 4096},  # as if pixels were scaled to a deviation of 1
    weight_decay=0.0,
    init="he",
    schedule="cosine",
    warmup_epochs=1.0,
    lighting=0.0,
)
FOUR_BUDGETS: Budgets = {
    "quick": Budget(epochs=12, images=5000),
    "full": Budget(epochs=15),
}
NO_AUGMENTATION = {"flip": False, "random_crop": False, "lighting": 0.0}

RELU = Experiment(
    name="relu",
    question="How much sooner does a network with ReLUs reach 25 % training error?",
    claims=(6,),
    settings=replace(FOUR_LAYERS, schedule="steps", warmup_epochs=0.0, flip=False,
                     random_crop=False),
    side=32,
    arms=(
        Arm("ReLU"),
        Arm("tanh", {"ablate": {"activation": "tanh"}}),
        Arm("sigmoid", {"ablate": {"activation": "sigmoid"}}),
    ),
    comparisons=(
        Comparison("ReLU", "tanh", "about six times as soon (P figure 1)", "epochs_to_25",
                   effect=1 / 6),
        Comparison("ReLU", "sigmoid", "several times as soon (P 3.1)", "epochs_to_25"),
    ),
    budgets={
        "quick": Budget(epochs=30, images=2000, test_images=2000, changes={"batch_size": 32}),
        "full": Budget(epochs=40, images=20000, rates=(0.1, 1 / 3, 1.0, 3.0)),
    },
    training_error=True,
)  # fmt: skip

NORMALISED = Arm("with LRN", {"model": "cifar10_11"})
NOT = Arm("without LRN", {"model": "cifar10_13"})
PUBLISHED_LRN = "11 % against 13 % (P 3.3)"

LRN = Experiment(
    name="lrn",
    question="Does local response normalisation lower the error of the CIFAR-10 net?",
    claims=(10,),
    settings=replace(recipe("cifar10"), schedule="cosine", drop_epochs=()),
    side=32,
    arms=(NORMALISED, NOT),
    comparisons=(
        Comparison(NORMALISED.name, NOT.name, PUBLISHED_LRN, effect=-0.02),
        Comparison(NORMALISED.name, NOT.name, PUBLISHED_LRN, "test_error_10_views", effect=-0.02),
    ),
    budgets={
        "quick": Budget(epochs=30, images=10000, rates=(1.0, 3.0)),
        "full": Budget(epochs=30, rates=(1.0, 3.0)),
    },
)

CIFAR10 = Experiment(
    name="cifar10",
    question="Which errors do the paper's two CIFAR-10 nets reach, trained as long as in 2012?",
    claims=(10, 25),
    settings=recipe("cifar10"),
    side=32,
    arms=(NORMALISED, NOT),
    comparisons=(
        Comparison(NORMALISED.name, NOT.name, PUBLISHED_LRN, effect=-0.02),
        Comparison(NORMALISED.name, NOT.name, PUBLISHED_LRN, "test_error_10_views", effect=-0.02),
        Comparison(
            NORMALISED.name,
            NORMALISED.name,
            "",
            "test_error_10_views",
            of_second="test_error",
        ),
    ),
    budgets={
        "quick": Budget(
            epochs=3, rates=(1.0,), holds_out=False, changes={"drop_epochs": (2,)}
        ),
        "full": Budget(
            epochs=520, rates=(1.0,), seeds=1, holds_out=False,
            changes={"drop_epochs": (500, 510)},
        ),
    },
)  # fmt: skip
"""Rates are those of 2012, not tuned: 500 epochs, ten at a tenth, ten at a hundredth. There the
fifth batch of images joined after 350 epochs (AN layer-params-conv-local-13pct.cfg), here at once.
"""

POOLING = Experiment(
    name="pooling",
    question="Do overlapping pools lower the error?",
    claims=(7,),
    settings=FOUR_LAYERS,
    side=32,
    arms=(Arm("overlapping"), Arm("not overlapping", {"ablate": {"overlap": "no"}})),
    comparisons=(
        Comparison("overlapping", "not overlapping", "0.4 points less (P 3.4)", effect=-0.004),
    ),
    budgets=FOUR_BUDGETS,
)

MOMENTUM = Experiment(
    name="momentum",
    question="What does momentum change, each at its best learning rate?",
    claims=(18,),
    settings=FOUR_LAYERS,
    side=32,
    arms=(Arm("momentum 0.9"), Arm("none", {"momentum": 0.0, "lr": 0.1})),
    comparisons=(Comparison("momentum 0.9", "none", "", is_claimed=False),),
    budgets=FOUR_BUDGETS,
)

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
