"""How often does each kind of fault occur? Counts the tries of the tests that look for it.

    python research/experiments/reliability.py --json research/results/reliability.json [--only checkpoints]

Run it at the root of the repository. A try is one damaged file, one kill, one
interrupt, one read beside a writer, or one foreign file. A test that finds a fault fails, and counts as one fault.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diekae.provenance import code_digest, write_json

FOREIGN, FUZZ = 100, 200
"""Files of each kind, and examples of each fuzzed property."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    name: str
    before: str
    """What the attack of November 2026 found, before anything was mended."""
    tests: tuple[str, ...]
    """Tests that look for it."""
    tries: int = 1
    """Tries of a test that does not count them itself."""


KINDS = (
    Kind("kills of the store that lose something", "0 of 365", ("tests/store/test_shared.py -k kill",)),
    Kind("kills of writers of edits that lose an acknowledged edit", "not counted", ("tests/edit/test_edit_kills.py",)),
    Kind(
        "flips in prepared knowledge accepted",
        "138 of 200; in a store, 134 and 86 of 200",
        ("tests/test_knowledge.py -k flipped",),
    ),
    Kind(
        "flips in the catalogue accepted",
        "22 of a number not noted; verify missed half",
        ("tests/store/test_damage.py -k flipped",),
    ),
    Kind("damage to edits that changes an answer", "not counted", ("tests/edit/test_edit_damage.py -k same_answers",)),
    Kind(
        "flips in the editing adapter accepted",
        "114 of a number not noted",
        ("tests/edit/test_trained_parts.py -k flipped",),
    ),
    Kind(
        "damaged checkpoints accepted",
        "83 and 67 of numbers not noted",
        ("tests/training/test_resume.py -k damage_of_any", "tests/training/test_resume.py -k flipped_bit"),
    ),
    Kind(
        "damaged shards of a cache accepted",
        "29 of a number not noted",
        ("tests/training/test_cache.py -k damaged_shard", "tests/training/test_cache.py -k flipped_bit"),
    ),
    Kind("reads of a bank that fail beside a writer", "68 of 3,001", ("tests/test_checkpoint.py -k same_time",)),
    Kind("interrupts that leave a hook", "10 of 2,858", ("tests/inject/test_interrupts.py",)),
    Kind(
        "foreign files and values that end in a foreign traceback",
        "147 of 1,907",
        ("tests/cli/test_foreign_files.py", "research/tests/data/test_foreign_data.py"),
        FOREIGN,
    ),
    Kind(
        "texts, names and files that poison a store",
        "one kind: any lone surrogate",
        ("tests/store/test_fuzz.py",),
        FUZZ,
    ),
    Kind("documents that stop a folder or the caller", "6 kinds", ("tests/readers",)),
    Kind("stores that reach outside their folder", "3 calls", ("tests/store/test_hostile.py",)),
    Kind(
        "resumptions that are not bit-identical",
        "one kind: every one with group_by_length",
        ("tests/training/test_resume.py -k bit_for_bit",),
    ),
    Kind("threads and tasks that read other knowledge", "1 way of those tried", ("tests/inject/test_leaks.py",)),
    Kind(
        "paths at which nothing can be that end in the system's own error",
        "not counted",
        ("tests/test_paths.py",),
    ),
    Kind("calls whose cost grows with the store", "4 calls", ("tests/store/test_scale.py -k cost_of_a_call",)),
    Kind(
        "questions in scripts and spellings of the world not found",
        "6 of 6, in Chinese, Japanese and Korean",
        ("tests/store/test_words.py -k all_scripts", "tests/store/test_words.py -k one_character"),
    ),
)


def run(kind: Kind) -> dict[str, Any]:
    """Run the tests of a kind; returns what was found before, and tries, tests and faults now."""
    tries = tests = faults = 0
    environment = {**os.environ, "DIEKAE_FOREIGN_FILES": str(FOREIGN), "FUZZ_EXAMPLES": str(FUZZ)}
    with tempfile.TemporaryDirectory() as folder:
        for number, arguments in enumerate(kind.tests):
            report = Path(folder) / f"{number}.xml"
            command = [sys.executable, "-m", "pytest", "-q", *arguments.split(), f"--junitxml={report}"]
            subprocess.run(command, env=environment, timeout=1200, stdout=subprocess.DEVNULL)
            for case in ElementTree.parse(report).iter("testcase"):
                if case.find("skipped") is not None:
                    continue
                counted = [int(item.attrib["value"]) for item in case.iter("property") if item.get("name") == "tries"]
                tests, tries = tests + 1, tries + (counted[0] if counted else kind.tries)
                faults += case.find("failure") is not None or case.find("error") is not None
    return {"before": kind.before, "now": faults, "tries": tries, "tests": tests, "run": list(kind.tests)}


def main() -> None:
    """Count all kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the counts go")
    parser.add_argument("--only", help="count only the kinds whose names hold this; the file keeps the others")
    arguments = parser.parse_args()
    earlier = json.loads(arguments.json.read_text()) if arguments.only else {"kinds": {}}
    # Each kind says which code it was counted with.
    kept = {name: {"code": earlier.get("code"), **counts} for name, counts in earlier["kinds"].items()}
    result: dict[str, Any] = {
        "foreign": FOREIGN,
        "fuzz": FUZZ,
        "kinds": {k.name: {**kept[k.name], "before": k.before} for k in KINDS if k.name in kept},
    }
    for kind in KINDS:
        if (arguments.only or "") not in kind.name:
            continue
        result["kinds"][kind.name] = counts = {**run(kind), "code": code_digest()}
        print(f"{kind.name}: {kind.before}; now {counts['now']} of {counts['tries']}", flush=True)
        if arguments.json:
            write_json(arguments.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
