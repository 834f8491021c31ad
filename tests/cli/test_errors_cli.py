"""What the program does with errors, foreign texts and closed pipes: a line and an exit code, never a traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from cli_runs import Ended, run
from diekae.cli.output import printable, printable_name

GIVEN = ("--data", "--knowledge")


def plain(errors: str) -> str:
    """Return the words of an error, without its frame and line breaks."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", errors).split())


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """Run a verb in which this error is raised."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("diekae.cli.knowledge.check_store", fail)
    return run("knowledge", "list")


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (ValueError("two\nlines [/b] \x1b[31m"), r"error two lines [/b] \x1b[31m", 2),
        (PermissionError(13, "Permission denied", "a\nb"), r"error 'a\nb': Permission denied", 2),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "Save or name it in UTF-8.", 2),
        (MemoryError(), "error the memory is full (MemoryError). Work on less", 2),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "a smaller --batch-size", 2),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "a smaller --batch-size", 2),
        (SafetensorError("header too large"), "error a safetensors file is damaged (header too large)", 2),
        (RecursionError("maximum recursion depth exceeded while decoding a JSON array"), "nested too deep", 2),
        (RecursionError("maximum recursion depth exceeded"), "(DIEKAE_DEBUG=1 shows where)", 1),
        (RuntimeError("CUDA error: no kernel"), "error CUDA error: no kernel (DIEKAE_DEBUG=1 shows where)", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (BrokenPipeError(32, "Broken pipe"), "", 1),
    ],
)
def test_an_error_is_one_line(error: BaseException, words: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = raising(error, monkeypatch)
    assert ended.code == code and words in ended.errors and not ended.output
    assert len(ended.errors.splitlines()) == bool(words)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        raising(KeyError("x"), monkeypatch)


def test_debug_raises_every_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIEKAE_DEBUG", "1")
    with pytest.raises(RuntimeError, match="out of memory"):
        raising(RuntimeError("out of memory"), monkeypatch)


def test_control_characters_become_visible() -> None:
    assert printable("a\x1b[2J\x07\tb\r\nc\x9b\udcff\u202e é") == "a\\x1b[2J\\x07\tb\nc\\x9b\\udcff\\u202e é"
    assert printable_name("a\nb") == "a\\nb"


def test_paths_are_not_markup(trained: tuple[Path, str], workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "[red] :bug: ["  # the slash after it closes the tag
    folder.mkdir()
    data = folder / "i].jsonl"
    data.write_text((workspace / "data" / "test.jsonl").read_text())
    bank = folder / "bank]"
    bank.symlink_to(trained[0] / "bank")
    ended = run("evaluate", "--bank", bank, "--data", data, "--answers", "--limit", "3", "--json", folder / "u].json")
    assert ended.code == 0, ended.errors
    assert f"figures: {folder / 'u].json'}" in ended.output and "i].jsonl" in ended.output


def test_texts_of_documents_do_not_reach_the_terminal_raw(
    trained: tuple[Path, str], workspace: Path, tmp_path: Path
) -> None:
    (tmp_path / "docs" / "[").mkdir(parents=True)
    path = tmp_path / "docs" / "[" / "b]\x1b]0;b\n.txt"
    path.write_text("the tower \x1b[31m is \x9b blue \x07")
    store, bank = tmp_path / "store", trained[0] / "bank"
    for arguments in (
        ("knowledge", "add", tmp_path / "docs", "--store", store, "--bank", bank),
        ("knowledge", "list", "--store", store),
        ("knowledge", "search", "tower", "--store", store),
        ("ask", "tower \x1b[2J", "--store", store, "--bank", bank),
        ("knowledge", "remove", "--store", store, path),
    ):
        ended = run(*arguments)
        assert ended.code == 0, ended.errors
        assert not set(ended.output) & {"\x1b", "\x9b", "\x07"}, ended.output


def test_an_ascii_terminal_gets_escapes(trained: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "größe.txt").write_text("the tower is ‚blue‘ – 5 m", encoding="utf-8")
    store = ("--store", tmp_path / "store")
    bank = ("--bank", trained[0] / "bank")
    for arguments in (
        ("knowledge", "add", tmp_path / "größe.txt", *store, *bank),
        ("knowledge", "list", *store),
        ("knowledge", "search", "größe", *store),
        ("ask", "wie größe", *store, *bank),
        ("--help",),
    ):
        ended = run(*arguments, encoding="ascii")
        assert ended.code == 0, ended.errors
    assert r"gr\xf6\xdfe.txt" in run("knowledge", "list", *store, encoding="ascii").output
    assert r"gr\xf6\xdfe" in run("knowledge", "add", tmp_path / "größe.pdf", *store, *bank, encoding="ascii").errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "--knowledge", "x", "what \udcff"),
        ("ask", "--knowledge", "x", " "),
        ("edit", "ask", " "),
        ("knowledge", "search", "\udcff"),
        ("knowledge", "add", "--text", "a", "--text", "\udcff"),
    ],
)
def test_bytes_that_are_not_utf8_and_blank_questions_are_refused_at_once(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments)
    assert ended.code == 2 and ("U+DCFF" in ended.errors or "blank" in ended.errors)


def test_file_names_that_are_not_utf8(trained: tuple[Path, str], workspace: Path, tmp_path: Path) -> None:
    data = tmp_path / "\udcff.jsonl"
    bank = ("--bank", trained[0] / "bank")
    ended = run("evaluate", *bank, "--data", data)
    assert ended.code == 2 and r"\udcff.jsonl: no such file" in ended.errors
    data.write_text((workspace / "data" / "test.jsonl").read_text())
    ended = run("evaluate", *bank, "--data", data, "--json", tmp_path / "\udcfe.json")
    assert ended.code == 0 and (tmp_path / "\udcfe.json").is_file() and r"\udcff.jsonl" in ended.output


OUTPUTS = [
    ("evaluate", "--data", "none.jsonl", "--json"),
    ("ask", "what", "--knowledge", "none.txt", "--json"),
    ("layers", "--data", "none.jsonl", "--json"),
    ("layers", "--data", "none.jsonl", "--plot"),
    ("train", "none.toml", "--json"),
    ("demo", "--json"),
]


@pytest.mark.parametrize("arguments", OUTPUTS)
def test_an_unwritable_file_is_found_before_the_work(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file" / "a.png", tmp_path / f"{'n' * 250}.png", Path("/dev/null")):
        ended = run(*arguments, path)
        assert ended.code == 2 and "cannot be written" in plain(ended.errors), ended.errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_run_leaves_the_old_file(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    figures.write_text("old")
    assert run("evaluate", "--data", tmp_path / "none.jsonl", "--json", figures).code == 2
    assert run("evaluate", "--data", tmp_path / "none.jsonl", "--json", tmp_path / "new" / "figures.json").code == 2
    assert figures.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_figures_are_written_before_they_are_printed(
    trained: tuple[Path, str], workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("diekae.cli.evaluate.figures", fail)
    options = ("--bank", trained[0] / "bank", "--data", workspace / "data" / "test.jsonl", "--limit", "2")
    run("evaluate", *options, "--json", tmp_path / "figures.json")
    assert (tmp_path / "figures.json").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "--data", "x", "--limit", "0"),
        ("evaluate", "--data", "x", "--batch-size", "0"),
        ("evaluate", "--data", "x", "--max-knowledge", "-1"),
        ("layers", "--data", "x", "--choose", "0"),
        ("layers", "--data", "x", "--width", "0"),
        ("layers", "--data", "x", "--max-knowledge", "0"),
        ("layers", "--data", "x", "--seed", "-1"),
        ("layers", "--data", "x", "--seed", "99999999999999999999"),
        ("ask", "--knowledge", "x", "--threshold", "nan", "what"),
        ("ask", "--knowledge", "x", "--passages", "0", "what"),
        ("ask", "--knowledge", "x", "--max-new-tokens", "0", "what"),
        ("demo", "--steps", "0"),
        ("demo", "--steps", "-2"),
        ("knowledge", "search", "what", "--count", "0"),
        ("edit", "ask", "what", "--max-new-tokens", "0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: tuple[str, ...]) -> None:
    ended = run(*arguments)
    option = next(argument for argument in arguments[1:] if argument.startswith("--") and argument not in GIVEN)
    assert ended.code == 2 and option in ended.errors and not ended.output
    assert any(words in plain(ended.errors) for words in ("greater than", "less than", "--steps is 0"))


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (("ask", "--knowledge", "x", "what", "--format", "xml"), "'auto', 'plain', 'qa', 'chat'"),
        (("evaluate", "--data", "x", "--format", "auto"), "'plain', 'qa', 'chat'"),
        (("evaluate", "--data", "x", "--scope", "every"), "'all', 'prompt'"),
        (("evaluate", "--data", "x", "--dtype", "int4"), "auto, fp32"),
        (("layers", "--data", "x", "--format", "prose"), "'plain', 'qa', 'chat'"),
        (("layers", "--source", "facts", "--split", "dev"), "'train', 'validation', 'test'"),
        (("knowledge", "add", "x", "--precision", "int4"), "'exact', 'bf16', 'int8'"),
        (("edit", "add", "x", "--gate", "open"), "'learned', 'mention'"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(arguments: tuple[str, ...], choices: str) -> None:
    ended = run(*arguments)
    assert ended.code == 2 and choices in plain(ended.errors) and arguments[-2] in ended.errors and not ended.output


def test_huge_numbers_mean_as_much_as_there_is(trained: tuple[Path, str], workspace: Path, tmp_path: Path) -> None:
    huge, bank = str(10**30), ("--bank", trained[0] / "bank")
    numbers = ("--limit", huge, "--batch-size", huge, "--max-knowledge", huge)
    assert run("evaluate", *bank, "--data", workspace / "data" / "test.jsonl", *numbers).code == 0
    store = ("--store", tmp_path / "store")
    assert run("knowledge", "add", workspace / "fact.txt", *store, *bank).code == 0
    assert run("knowledge", "search", "tower", *store, "--count", huge).code == 0
    assert run("ask", "tower", *store, *bank, "--passages", huge, "--max-new-tokens", "1").code == 0


def program(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from diekae.cli import app; app()", *map(str, arguments)]


def test_a_closed_pipe_ends_the_program_quietly(trained: tuple[Path, str], workspace: Path, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    assert run("knowledge", "add", workspace / "fact.txt", *store, "--bank", trained[0] / "bank").code == 0
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(program("knowledge", "list", *store), stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(program("--version"), stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr == "error No space left on device\n"


def test_ctrl_c_is_one_line() -> None:
    script = (
        "import signal, time, diekae.cli as c; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "c.load_verb = lambda name: print('begun', flush=True) or time.sleep(60); c.app()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "ask", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == "interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_program_leaves_no_temporary_folder(number: signal.Signals) -> None:
    script = (
        "import signal, tempfile, time, diekae.cli as c\n"
        f"signal.signal({number:d}, signal.SIG_DFL)\n"  # tests may run under nohup
        "def verb(name):\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        "        print(folder, flush=True)\n"
        "        time.sleep(60)\n"
        "c.load_verb = verb\n"
        "c.app()"
    )
    with subprocess.Popen([sys.executable, "-c", script, "ask", "x"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert not folder.exists()
