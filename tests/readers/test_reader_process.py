"""Files that take too long, take too much memory or crash their reader: refused by name, and the next one is read."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from builders import write_pdf
from diekae.readers import process, read_document


@pytest.fixture
def slow_pdf(tmp_path: Path) -> Path:
    """Return a PDF of one page that takes minutes: it writes two million letters one by one."""
    return write_pdf(tmp_path / "slow.pdf", ") Tj (".join("x" * 2_000_000))


def test_one_slow_page_is_refused_after_the_limit(
    slow_pdf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = write_pdf(tmp_path / "a.pdf", "The tower is red.")
    assert read_document(tower) == "The tower is red."
    monkeypatch.setattr(process, "SECONDS", 2)
    with pytest.raises(ValueError, match=r"slow.pdf' takes more than 2 s to read; split it, or save it as plain text"):
        read_document(slow_pdf)
    monkeypatch.undo()
    assert read_document(tower) == "The tower is red."


def test_a_reader_that_crashes_or_takes_all_memory_fails_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries below are written in part in C; a stand-in for them crashes here."""
    for name, code in (("csv", "import os\nos.kill(os.getpid(), 11)"), ("bs4", "x = bytes(5 * 10**9)")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(code)
    page, table = tmp_path / "a.html", tmp_path / "a.csv"
    page.write_text("<p>x")
    table.write_text("a,b")
    process._process.close()
    monkeypatch.syspath_prepend(tmp_path / "bs4")
    with pytest.raises(ValueError, match=r"a.html' cannot be read as HTML \(MemoryError"):
        read_document(page)
    process._process.close()
    monkeypatch.syspath_prepend(tmp_path / "csv")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a.csv' made the process that reads it crash \(exit code -11\)"):
            read_document(table)
    monkeypatch.undo()
    process._process.close()
    assert read_document(page) == "x" and read_document(table) == "a; b"


def test_ctrl_c_ends_the_process_and_leaves_no_answer_behind(slow_pdf: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    assert read_document(tmp_path / "a.json") == "1"
    main = threading.get_ident()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            read_document(slow_pdf)
    finally:
        signal.signal(signal.SIGINT, before)
    assert read_document(tmp_path / "a.json") == "1"


def test_threads_and_forked_processes_get_their_own_texts(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.json").write_text(f"[{number}]")
    texts: dict[int, str] = {}

    def read(number: int) -> None:
        texts[number] = read_document(tmp_path / f"{number}.json")

    threads = [threading.Thread(target=read, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    with warnings.catch_warnings(action="ignore"):  # Python warns of a fork beside threads
        child = os.fork()
    if not child:
        right = False
        with contextlib.suppress(Exception):
            right = read_document(tmp_path / "7.json") == "7"
        os._exit(0 if right else 1)
    for thread in threads:
        thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert texts == {number: str(number) for number in range(20)}


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    script = """if True:
        import os, pathlib, sys
        from diekae.readers import process, read_document
        assert read_document(pathlib.Path("a.json")) == "1"
        print(process._process._process.pid, flush=True)
        os.kill(os.getpid(), 9) if "killed" in sys.argv else None"""
    for how in ("ended", "killed"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-W", "error", "-c", script, how]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert not done.stderr
        for _ in range(100):
            try:
                os.kill(int(done.stdout), 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"the reader's process outlives one that was {how}")
