"""All measurements of a visit to a GPU, in order of worth, with the seconds that each may take.

The seconds are those of an H200, as measured there or, for what never ran there, as estimated; the
start of a group's process comes on top. `make bench-gpu` has seven minutes for all but CIFAR-10.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from alexnet.bench.gpu import checks, commands
from alexnet.bench.gpu.scale import OURS, Scale
from alexnet.bench.network_tables import block_table, convolution_table, network_table
from alexnet.bench.report import Table
from alexnet.bench.spec import Work
from alexnet.bench.timing import first_line
from alexnet.progress import SILENT

Result = dict[str, Any]

START_SECONDS = 6.0
"""Of a group's process: imports, and the connection to the GPU."""
CIFAR10_IMAGES = 50_000


@dataclass(frozen=True)
class Measurement:
    """One entry of result.json."""

    key: str
    seconds: float
    """About how long it takes on an H200."""
    work: Callable[[], Result]

    @property
    def limit(self) -> float:
        """After how many seconds it is given up on a GPU."""
        return 45 + 2 * self.seconds

    def result(self) -> Result:
        """Do the work; return what was found, or its error as a result."""
        try:
            return self.work()
        except Exception as error:  # noqa: BLE001 - the other measurements follow
            return {"error": f"{type(error).__name__}: {first_line(error)}"}


@dataclass(frozen=True)
class Group:
    """Measurements that share a process."""

    name: str
    measurements: tuple[Measurement, ...]
    is_timed: bool = True
    """Whether its times are results, so that nothing may run beside it."""
    is_optional: bool = False
    """Whether it has time of its own."""

    @property
    def seconds(self) -> float:
        """About how long it takes on an H200."""
        return START_SECONDS + sum(each.seconds for each in self.measurements)


def plan(scale: Scale, out: Path, caches: Path, cifar10: Path | None = None) -> list[Group]:
    """List all groups. Files go to `out`, compiled code of the timed groups to `caches`.

    `cifar10` is CIFAR-10 as a packed data set; without it these trainings are skipped.
    """
    return [
        *_checks(scale, out),
        Group(
            "first_use", (Measurement("first_use", 45, lambda: commands.first_use(scale, caches)),)
        ),
        Group("steps", (*_networks(scale), *_parts(scale))),
        Group("commands", tuple(_commands(scale))),
        Group("compiled", tuple(_compiled(scale))),
        Group("cifar10", tuple(_cifar10(scale, out, cifar10)), is_optional=True),
    ]


def seconds_of(groups: list[Group]) -> float:
    """Return about how long a visit takes on an H200: what is not timed runs side by side."""
    together = [group.seconds for group in groups if not group.is_timed]
    alone = [group.seconds for group in groups if group.is_timed and not group.is_optional]
    return max(together) + sum(alone)


def _checks(scale: Scale, out: Path) -> list[Group]:
    """List what is not timed."""
    model, resume = scale.setup.model, partial(partial, checks.resume, scale)
    tests = Measurement("tests", 75, lambda: checks.run_tests(scale, out / "tests.xml"))
    memory = (
        Measurement("memory", 15, lambda: checks.memory(scale, plain=False)),
        Measurement("memory_plain", 10, lambda: checks.memory(scale, plain=True)),
        Measurement("memory_tower", 25, lambda: checks.tower_memory(scale)),
    )
    return [
        Group("tests", (tests,), is_timed=False),
        *(
            Group(key, (Measurement(key, 50, work),), is_timed=False)
            for key, work in (
                ("resume", resume("paper", model)),
                ("resume_small", resume("small", model)),
                ("resume_cifar10_11", resume("cifar10", "cifar10_11")),
            )
        ),
        Group("losses", (Measurement("losses", 45, lambda: checks.losses(scale)),), is_timed=False),
        Group("memory", memory, is_timed=False),
    ]


def _networks(scale: Scale) -> list[Measurement]:
    """List training and inference, beside others at the batch sizes that have targets.

    The limits of the device are measured once.
    """
    peers = (*OURS, "modules_last", "torchvision_last")
    few = (*OURS, "torchvision_last")
    return [
        _network(scale, "train", 1024, 20, peers, limits=True),
        _network(scale, "train", 128, 10, few),
        _network(scale, "infer", 1024, 8, few),
        _network(scale, "infer", 1, 5, few),
        _network(scale, "train", 512, 4, ("ours",)),
        _network(scale, "infer", 32, 3, ("ours",)),
        _network(scale, "infer", 128, 3, ("ours",)),
    ]


def _network(
    scale: Scale,
    work: Work,
    batch: int,
    seconds: float,
    rows: tuple[str, ...],
    *,
    limits: bool = False,
    key: str = "",
) -> Measurement:
    """Measure some rows of a table of `alexnet bench`; a rehearsal has fewer."""
    only = tuple(row for row in rows if not scale.setup.only or row in scale.setup.only)
    setup = replace(scale.setup, only=only, limits=limits)
    make = partial(network_table, work, scale.batch(batch), setup, scale.rounds, SILENT)
    return Measurement(key or f"{work}_batch_{batch}", seconds, partial(_table_result, make))


def _table_result(make: Callable[[], Table]) -> Result:
    """Return a table as JSON, an error if our own row could not be measured."""
    table = make()
    ours = table.rows[0]
    return table.as_json() if ours.rates else {"error": ours.note}


def _parts(scale: Scale) -> list[Measurement]:
    """List the paper's blocks and convolutions, one by one."""
    rounds = replace(scale.rounds, seconds=scale.rounds.seconds / 3)
    shared = (scale.batch(1024), scale.setup, rounds, SILENT)
    blocks = [
        (f"{name}_{'both' if backward else 'forward'}", 1.5,
         partial(block_table, name, *shared, backward=backward))
        for name in scale.blocks
        for backward in (False, True)
    ]  # fmt: skip
    convolutions = [
        (name, 3.0, partial(convolution_table, name, *shared))
        for name in ("conv1", "conv2", "conv4", "conv5")
    ]
    return [
        Measurement(key, seconds, partial(_table_result, make))
        for key, seconds, make in (*blocks, *convolutions)
    ]


def _commands(scale: Scale) -> list[Measurement]:
    """List trainings and evaluations as a user starts them."""
    model, small = scale.setup.model, "cifar10_11"
    train = partial(partial, commands.train_command, scale)
    evaluate = partial(partial, commands.evaluate_command, scale)
    return [
        Measurement("train_command_batch_1024", 20, train("paper", model, 1024, 131_072)),
        Measurement("train_command_batch_128", 15, train("paper", model, 128, 65_536)),
        Measurement("train_command_cifar10_11", 8, train("cifar10", small, 128, CIFAR10_IMAGES)),
        Measurement("train_command_small", 12, train("small", model, 32, 16_384)),
        Measurement("evaluate_32", 8, evaluate(small, CIFAR10_IMAGES)),
        Measurement("evaluate_224", 8, evaluate(model, 32_768)),
    ]


def _compiled(scale: Scale) -> list[Measurement]:
    """List the peers under torch.compile, which takes most of the time."""
    modules, torchvision = ("ours", "modules_compiled"), ("ours", "torchvision_compiled")
    return [
        _network(scale, "train", 1024, 35, torchvision, key="train_compiled_torchvision"),
        _network(scale, "infer", 1024, 18, torchvision, key="infer_compiled_torchvision"),
        _network(scale, "train", 1024, 65, modules, key="train_compiled_modules"),
    ]


def _cifar10(scale: Scale, out: Path, data: Path | None) -> list[Measurement]:
    """List the paper's trainings on CIFAR-10, at the rate that an H200 had before the changes."""
    seconds = 520 * CIFAR10_IMAGES / 69_000
    return [
        Measurement(
            f"{model}_520_epochs",
            seconds,
            partial(commands.cifar10, scale, model, data, out / "runs" / model),
        )
        for model in ("cifar10_11", "cifar10_13")
    ]


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Return what follows from several measurements."""

    def rate(measurement: str) -> float:
        result = found.get(measurement, {})
        return float(result.get("rate") or result.get("rows", {}).get("ours", {}).get("rate") or 0)

    facts = {}
    for batch in (1024, 128):
        alone = rate(f"train_batch_{batch}")
        if alone and (command := rate(f"train_command_batch_{batch}")):
            facts[f"command_{batch}_over_steps"] = command / alone
    if whole := rate("train_command_batch_1024"):
        facts["imagenet_90_epochs_minutes"] = 90 * 1_281_167 / whole / 60
    if small := rate("train_command_cifar10_11"):
        facts["cifar10_11_520_epochs_minutes"] = 520 * CIFAR10_IMAGES / small / 60
    return facts
