"""The list of results: each file is listed with its command, and each command is understood."""

import re
import shlex

import pytest

from code_blocks import APPS, ROOT, parse_command

FOLDER = ROOT / "research" / "results"
TEXT = (FOLDER / "README.md").read_text()
SHORT = dict(re.findall(r"\b([A-Z]+) stands for\s+`([^`]+)`", TEXT))
"""What capital words in commands stand for."""
NOT_MEASURED = {"gpu.json"}


def listed() -> list[tuple[str, str]]:
    """The files of the tables, and the cell with the command of each, completed by what its table's heading says."""
    pairs, heading = [], None
    for line in TEXT.splitlines():
        if line.startswith("| file |"):
            heading = re.search(r"`(diekae-research \w+) …(.*)`", line)
        elif line.startswith("| `"):
            names, cell = line.strip("| ").split(" | ", 1)
            if heading:
                cell = re.sub(r"`([a-z]+\d?(?: [^`]*)?)`", rf"`{heading[1]} \1{heading[2]}`", cell)
            pairs += [(name, cell) for name in re.findall(r"`([\w/.-]+\.json)`", names)]
    return pairs


PAIRS = listed()


def test_every_result_is_listed_and_every_listed_result_exists() -> None:
    paths = [path.relative_to(FOLDER) for path in FOLDER.rglob("*.json")]
    names = {name for name, _ in PAIRS}
    assert len(paths) > 50 and [path for path in paths if not {str(path), path.name} & names] == []
    assert names - {name for path in paths for name in (str(path), path.name)} == NOT_MEASURED


@pytest.mark.parametrize(("name", "cell"), PAIRS)
def test_the_command_of_a_result_is_understood(name: str, cell: str) -> None:
    for command in re.findall(r"`([^`]+)`", cell):
        words = shlex.split(re.sub(r"\b[A-Z]+\b", lambda word: SHORT.get(word[0], word[0]), command))
        if words[0] in APPS:
            parse_command(*words)
        elif words[0] == "python" and " at commit " not in cell:
            source = (ROOT / words[1]).read_text()
            assert all(f'"{word}"' in source for word in words if word.startswith("--")), f"{name}: {command}"
