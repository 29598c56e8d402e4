"""What an experiment is, as data: arms that are trained alike but for one thing, and a claim."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from alexnet.config import Settings

BudgetName = Literal["quick", "full"]
Figure = Literal[
    "test_error", "test_error_10_views", "test_error_averaged", "class_error", "overfitting",
    "epochs_to_25", "likeness",
]  # fmt: skip
"""What a finished training is judged by; `FIGURES` describes each. Less is better."""

FIGURES: dict[Figure, str] = {
    "test_error": "top-1 error on test images, one view",
    "test_error_10_views": "top-1 error on test images, ten views",
    "test_error_averaged": "the same of the seeds' networks together: the mean of probabilities",
    "class_error": "top-1 error on test images, one view, mean of the classes",
    "overfitting": "top-1 error on test images minus that on training images",
    "epochs_to_25": "epochs until 25 % of the training images are classified wrongly",
    "likeness": "1 minus the difference of the towers' shares of coloured filters",
}

TapWeights = Literal["imagenet", "random"]
"""What the convolutions are whose outputs are classified."""


@dataclass(frozen=True)
class Arm:
    """One of the trainings that are compared."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the experiment's."""
    classifier: str = ""
    """What a linear classifier sees instead: pixels, hog or words (`classical`), or a tap."""
    images: int = 0
    """Training images of each class, drawn anew for each seed (`transfer`); 0: the budget's."""
    weights: TapWeights | None = None
    """Whose tap `classifier` is."""


@dataclass(frozen=True)
class Comparison:
    """Two figures of which the first is claimed to be lower; the trainings have equal seeds."""

    first: str
    """Name of an arm."""
    second: str
    published: str
    """What the paper, or another source, reports; "" if nothing."""
    figure: Figure = "test_error"
    of_second: Figure | None = None
    """The second's figure, if it is another one."""
    effect: float | None = None
    """The published difference, first minus second, or for a ratio first by second."""
    is_claimed: bool = True
    """Whether somebody claims that the first is lower; otherwise any difference is a finding."""
    fewest_epochs: int = 0
    """Shorter trainings cannot tell, whatever differs: the claim is about longer ones."""

    @property
    def is_ratio(self) -> bool:
        """Whether the two are divided instead of subtracted."""
        return self.figure == "epochs_to_25"


@dataclass(frozen=True)
class Budget:
    """How much is spent on each training of an experiment."""

    epochs: int
    images: int = 0
    """Training images, drawn evenly from the classes; 0: all."""
    test_images: int = 0
    rates: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    """Learning rates tried for each arm with the first seed, as multiples of the settings'."""
    seeds: int = 3
    holds_out: bool = True
    """Whether validation images are kept apart. Where one rate is tried, nothing is chosen: they
    may be trained on."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that this budget replaces, such as a larger network."""
    side: int = 0
    """Of the stored images that these need at least, in pixels; 0: the experiment's."""
    drawn_side: int = 0
    """To which images are reduced that are drawn for each seed, in pixels."""


Budgets = Mapping[BudgetName, Budget]


@dataclass(frozen=True)
class Experiment:
    """A question to be answered by training."""

    name: str
    question: str
    claims: tuple[int, ...]
    """Numbers of the claims in docs/paper.md."""
    settings: Settings
    """What all arms share, but for epochs, rate and seed."""
    side: int
    """Of the stored images that the network needs at least, in pixels."""
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    budgets: Budgets
    training_error: bool = False
    """Whether the error on training images is measured after each epoch, and gradients."""

    @property
    def has_draws(self) -> bool:
        """Whether images are drawn anew for each seed."""
        return any(arm.images for arm in self.arms)

    def side_for(self, budget: BudgetName) -> int:
        """Return the side in pixels that stored images need at least."""
        return self.budgets[budget].side or self.side

    def arm(self, name: str) -> Arm:
        """Return the arm called `name`."""
        return next(arm for arm in self.arms if arm.name == name)
