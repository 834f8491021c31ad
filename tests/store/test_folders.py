"""Which files of a folder are read, and which are listed as skipped."""

import os
from pathlib import Path

from diekae.store.intake import AddResult, expand, find_documents


def names_of(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_skipped_files_of_a_folder_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    for name in (
        "a.txt",
        "deep/b.PDF",
        "picture.png",
        "deep/noname",
        "deep/deeper/c.csv",
        ".git/d.txt",
        ".e.txt",
        "~$f.docx",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    readable, skipped = find_documents(folder)
    assert names_of(readable) == ["a.txt", "b.PDF", "c.csv"] and names_of(skipped) == ["noname", "picture.png"]


def test_links_out_of_the_folder_are_skipped_and_listed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "docs", tmp_path / "docs-of-others"
    for name in (folder / "inner" / "a.txt", outside / "secret.txt"):
        name.parent.mkdir(parents=True)
        name.write_text("x")
    links = {
        "file.txt": outside / "secret.txt",
        "folder": outside,
        "up": tmp_path,
        "nowhere.txt": folder / "none.txt",
        "circle.txt": folder / "circle.txt",
        "within.txt": folder / "inner" / "a.txt",
        "around": folder / "inner",
        ".hidden.txt": outside / "secret.txt",
    }
    for name, target in links.items():
        os.symlink(target, folder / name)
    readable, skipped = find_documents(folder)
    assert names_of(readable) == ["a.txt", "within.txt"]
    assert names_of(skipped) == ["circle.txt", "file.txt", "folder", "nowhere.txt", "up"]


def test_the_files_of_a_store_in_the_folder_are_left_out(tmp_path: Path) -> None:
    for name in (
        "kept/catalogue.sqlite",
        "kept/catalogue.sqlite-wal",
        "kept/memories/bank/x.safetensors",
        "memories/a.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    readable, skipped = find_documents(tmp_path)
    assert names_of(readable) == ["a.txt"] and not skipped


def test_a_skipped_file_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "deep" / "b.png").write_text("x")
    added = AddResult()
    inputs = expand([tmp_path, tmp_path / "deep", "a text\n"], lambda _: [], added)
    assert [content for content, _ in inputs] == [tmp_path / "a.txt", "a text\n"]
    assert added.skipped == [str(tmp_path / "deep" / "b.png")] and not added.failed and not added.gone
