"""The findings of an examination: each with its weight, and what to do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from alexnet.errors import AlexnetError, CheckpointError, DataError

Weight = Literal["damage", "warning", "note"]
Kind = Literal["data set", "run", "archives"]

LISTED = 10
"""How many of the affected images or files are listed."""


def error_text(error: Exception, file: Path) -> str:
    """Return the text of an `AlexnetError`; any other error means that `file` is malformed."""
    return str(error) if isinstance(error, AlexnetError) else f"{file} is malformed ({error!r})"


@dataclass(frozen=True)
class Finding:
    """One finding."""

    weight: Weight
    """damage: do not use it as it is; warning: check it; note: for information."""
    check: str
    """The name of the check: "checksums", "duplicates"."""
    what: str
    remedy: str = ""
    """What to do; empty for notes."""
    examples: tuple[str, ...] = ()
    """The first affected images or files."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of `alexnet.diagnose`."""

    path: str
    kind: Kind
    facts: dict[str, Any]
    """Counts by check; docs/doctor.md lists the keys."""
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged; warnings do not count."""
        return not any(finding.weight == "damage" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """The command's exit code: 0 when sound, 3 for damaged data, 4 for a damaged run."""
        damaged = CheckpointError.exit_code if self.kind == "run" else DataError.exit_code
        return 0 if self.sound else damaged

    def as_json(self) -> dict[str, Any]:
        """Return what `alexnet doctor --json` prints."""
        return {**asdict(self), "sound": self.sound}


@dataclass
class Report:
    """Collects the facts and findings of an examination."""

    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def damage(self, check: str, what: str, remedy: str, examples: Sequence[str] = ()) -> None:
        """Add damage: something that must not be used as it is."""
        self.findings.append(Finding("damage", check, what, remedy, tuple(examples[:LISTED])))

    def warn(self, check: str, what: str, remedy: str, examples: Sequence[str] = ()) -> None:
        """Add a warning: something to check."""
        self.findings.append(Finding("warning", check, what, remedy, tuple(examples[:LISTED])))

    def note(self, check: str, what: str) -> None:
        """Add a note: something for information."""
        self.findings.append(Finding("note", check, what))

    def diagnosis(self, path: Path, kind: Kind, seconds: float) -> Diagnosis:
        """Return the result: damage first, then warnings, then notes."""
        order = ("damage", "warning", "note")
        findings = sorted(self.findings, key=lambda finding: order.index(finding.weight))
        return Diagnosis(str(path), kind, self.facts, tuple(findings), round(seconds, 3))
