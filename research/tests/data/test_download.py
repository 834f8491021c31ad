"""Fetching data sets: checksums, archives, and what they may do in the target folder."""

from __future__ import annotations

import functools
import hashlib
import io
import random
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from data_commands import invoke, names, said_by

from diekae.data import DataError
from diekae_research.data import download as downloads
from diekae_research.data.card import Card, Upstream
from diekae_research.data.download import download_source, unpack


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def offer(monkeypatch: pytest.MonkeyPatch, *files: Upstream) -> None:
    """Let every name stand for a data set of these files."""
    monkeypatch.setattr(downloads, "source_card", lambda name: Card("T", "L", "", "somewhere", files))


def test_files_are_fetched_once_and_checked(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror[0] / "a.json").write_bytes(b"right")
    offer(monkeypatch, Upstream("a.json", "https://nowhere", hashlib.sha256(b"right").hexdigest()))
    first = download_source("x", tmp_path / "out", base_url=mirror[1])
    assert (first[0].fetched, first[0].known) == (True, True) and (tmp_path / "out" / "a.json").read_bytes() == b"right"
    (mirror[0] / "a.json").unlink()
    assert not download_source("x", tmp_path / "out", base_url=mirror[1])[0].fetched
    (tmp_path / "out" / "a.json").write_bytes(b"wrong")
    (mirror[0] / "a.json").write_bytes(b"right")
    assert download_source("x", tmp_path / "out", base_url=mirror[1])[0].fetched
    assert names(tmp_path / "out") == ["a.json"] and (tmp_path / "out" / "a.json").read_bytes() == b"right"


def test_a_wrong_checksum_leaves_nothing_behind(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror[0] / "a.json").write_bytes(b"tampered")
    offer(monkeypatch, Upstream("a.json", "https://nowhere", hashlib.sha256(b"right").hexdigest()))
    with pytest.raises(DataError, match=r"a.json: its SHA-256 is [0-9a-f]{64}, expected "):
        download_source("x", tmp_path / "out", base_url=mirror[1])
    assert names(tmp_path / "out") == []


def test_a_missing_file_and_a_silent_server_are_named(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    assert "the server answered 404" in said_by("download", "dream", "--out", tmp_path / "o", "--base-url", mirror[1])
    text = said_by("download", "dream", "--out", tmp_path / "o", "--base-url", "http://127.0.0.1:9")
    assert "cannot be fetched" in text and "is there a network" in text
    assert names(tmp_path / "o") == []
    assert "has nothing to download" in said_by("download", "zsre", "--out", tmp_path / "o")
    assert "begins with http" in said_by("download", "dream", "--out", tmp_path / "o", "--base-url", "file:///etc")


def test_an_archive_is_fetched_and_unpacked_from_the_command_line(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    with zipfile.ZipFile(mirror[0] / "datasets-CMU_DoG-master.zip", "w") as archive:
        archive.writestr("datasets-CMU_DoG-master/WikiData/a.json", "{}")
        archive.writestr("elsewhere/b.json", "{}")
    arguments = ("download", "cmu_dog", "--out", tmp_path / "out", "--base-url", mirror[1])
    result = invoke(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert names(tmp_path / "out") == ["WikiData", "datasets-CMU_DoG-master.zip"]
    assert names(tmp_path / "out" / "WikiData") == ["a.json"]
    assert "1 files unpacked" in " ".join(result.output.split()) and "none stated" in result.output
    assert "existed" in " ".join(invoke(*arguments).output.split())


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_stay_in_their_folder(tmp_path: Path, name: str, kind: str) -> None:
    archive, out = tmp_path / f"archive.{kind}", tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("good", "x")
            packed.writestr(name, "x")
    else:
        with tarfile.open(archive, "w:gz") as tar:
            for member in ("good", name):
                info = tarfile.TarInfo(member)
                info.size = 1
                tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="leads out of its folder"):
        unpack(archive, out, "")
    assert names(out) == [] and not list(tmp_path.rglob("evil"))


def test_a_link_in_the_target_folder_is_not_followed(tmp_path: Path) -> None:
    archive, out, elsewhere = tmp_path / "archive.zip", tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("data/deep/a.json", "{}")
        packed.writestr("b.json", "{}")
    (out / "data").symlink_to(elsewhere)
    with pytest.raises(DataError, match="is behind a link that leads out of"):
        unpack(archive, out, "")
    assert names(elsewhere) == []
    (out / "data").unlink()
    (elsewhere / "b.json").write_text("mine")
    (out / "b.json").unlink(missing_ok=True)
    (out / "b.json").symlink_to(elsewhere / "b.json")
    assert unpack(archive, out, "") == 2
    assert (elsewhere / "b.json").read_text() == "mine", "a link is replaced, not written through"
    (tmp_path / "link").symlink_to(out)
    assert unpack(archive, tmp_path / "link", "") == 0, "the folder itself may be a link"


def test_encrypted_and_damaged_archives_are_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    archive = tmp_path / "a\nb.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.json", "{}")
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a\\nb.zip': is encrypted; unpack it by hand"):
        unpack(archive, out, "")


@pytest.mark.parametrize("kind", ["zip", "bz2.zip", "xz.zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_every_damage_of_an_archive_is_named(tmp_path: Path, kind: str) -> None:
    archive, draw = tmp_path / f"archive.{kind}", random.Random(0)
    text = draw.randbytes(300)
    if kind.endswith("zip"):
        methods = {"zip": zipfile.ZIP_DEFLATED, "bz2.zip": zipfile.ZIP_BZIP2, "xz.zip": zipfile.ZIP_LZMA}
        with zipfile.ZipFile(archive, "w", methods[kind]) as packed:
            packed.writestr("a.json", text)
    else:
        with tarfile.open(archive, f"w:{kind.partition('.')[2]}") as tar:
            info = tarfile.TarInfo("a.json")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    whole = archive.read_bytes()
    for number in range(50):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if number % 3 == 0 else whole)
        for _ in range(0 if number % 3 == 0 else draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        archive.write_bytes(damaged)
        out = tmp_path / f"out{number}"
        out.mkdir()
        try:
            unpack(archive, out, "")
        except (DataError, OSError):
            assert not [path for path in out.rglob("*") if path.is_file()]


def test_links_in_archives_are_not_made_and_broken_archives_are_named(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive.tgz", tmp_path / "out"
    out.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        info = tarfile.TarInfo("./data.json")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    assert unpack(archive, out, "") == 1 and names(out) == ["data.json"]
    assert unpack(archive, out, "") == 0
    with pytest.raises(DataError, match="holds no file below 'inner'"):
        unpack(archive, out, "inner")
    archive.write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a whole zip or tar archive"):
        unpack(archive, out, "")
