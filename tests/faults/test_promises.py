"""Every fault has a test or a reason why it has none, and docs/reliability.md says which."""

from pathlib import Path

import pytest
from data_makers import load_script

script = load_script("reliability_page")
ROOT = Path(__file__).parents[2]


def test_every_fault_has_a_test_or_a_reason() -> None:
    assert script.problems(script.find_tests(ROOT / "tests")) == []
    numbers = [number for part in script.FAULTS.values() for number, _, _ in part]
    assert numbers == list(range(1, 63))


def test_the_page_is_up_to_date() -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    tests = script.find_tests(ROOT / "tests")
    assert text == script.page(text, tests), "python scripts/reliability_page.py"


def test_tests_are_found_by_their_marks(tmp_path: Path) -> None:
    (tmp_path / "tests/deep").mkdir(parents=True)
    (tmp_path / "tests/deep/test_a.py").write_text(
        "CASES = [pytest.param(1, marks=pytest.mark.fault(4))]\n"
        "@pytest.mark.fault(1)\n@pytest.mark.fault(2)\ndef test_one(): pass\n"
        "@pytest.mark.parametrize('x', CASES)\ndef test_two(x): pass\n"
        "@pytest.mark.fault(3)\ndef helper(): pass\n"
        "@pytest.mark.fault(5)\n@in_soak\ndef test_for_minutes(): pass\n"
    )
    found = script.find_tests(tmp_path / "tests")
    one, two = "tests/deep/test_a.py::test_one", "tests/deep/test_a.py::test_two"
    assert found == {1: [one], 2: [one], 4: [two]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({8: []}, "fault 8 has no test and no reason"),
        ({28: ["x"]}, "fault 28 has a test and a reason why not"),
        ({99: ["x"]}, "99 is no fault"),
        ({44: ["x"]}, f"fault 44 is not shown by {script.SHOWN_BY[44][0]}"),
    ],
)
def test_a_fault_without_a_test_is_noticed(change: dict[int, list[str]], complaint: str) -> None:
    tests = {**script.find_tests(ROOT / "tests"), **change}
    assert complaint in script.problems({number: names for number, names in tests.items() if names})
