"""Files, vector stores and tenants over the knowledge store."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from diekae.serve import EngineOptions, Keys, ServerOptions, create_app
from diekae.serve.access import OWNER
from diekae.serve.intake import Intake
from diekae.serve.library import Library
from diekae.serve.metrics import Metrics
from diekae.serve.reading import KnowledgeReader, Prompted
from diekae.serve.schema import KnowledgeRequest
from diekae.store import KnowledgeStore
from served import Serve, Served
from tiny_served_model import SHIP, TOWER, make_served_model

ADMIN, ANN, BOB = "a" * 16, "b" * 16, "c" * 16
KEYS = Keys([("*", ADMIN), ("ann", ANN), ("bob", BOB)])
QUESTION = [{"role": "user", "content": "Who was the architect of the tower?"}]


def read(client: Any, **knowledge: Any) -> Any:
    """The knowledge that an answer names."""
    response = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=2, extra_body={"knowledge": knowledge}
    )
    return response.model_extra["knowledge"]


def test_files_are_uploaded_listed_read_and_deleted(server: Served) -> None:
    client = server.client()
    file = server.add(TOWER, "tower.txt")
    assert (file.status, file.filename, file.bytes, file.purpose) == ("processed", "tower.txt", 57, "assistants")
    assert [other.id for other in client.files.list()] == [file.id]
    assert client.files.content(file.id).read() == TOWER.encode()
    assert client.files.delete(file.id).deleted
    assert not list(client.files.list()) and not server.state.reader.store.documents()  # type: ignore[union-attr]
    assert not list(Path(server.state.intake.library.uploads).iterdir())  # type: ignore[union-attr]
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\Users\\ann\\plan.md", "plan.md"),
        ("ab\u202ec.txt", "abc.txt"),
        ("x" * 400 + ".txt", "x" * 251 + ".txt"),
        ("<img src=x onerror=alert(1)>.txt", "<img src=x onerror=alert(1)>.txt"),
        ("..", ".."),
    ],
)
def test_names_never_reach_the_file_system(server: Served, name: str, shown: str) -> None:
    file = server.add(TOWER, name)
    assert file.filename == shown
    (path,) = Path(server.state.intake.library.uploads).iterdir()  # type: ignore[union-attr]
    assert path.name == f"{file.id}{Path(shown).suffix or '.txt'}"
    server.client().files.delete(file.id)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("a.exe", b"x", "'.exe' cannot be read"), ("a.txt", b" \n", "is empty"), ("a.txt", b"x" * 2000, "more than 1000")],
)
def test_files_that_cannot_be_kept_are_refused(serve: Serve, name: str, content: bytes, message: str) -> None:
    server = serve(options=ServerOptions(most_file=1000))
    with pytest.raises(openai.APIStatusError, match=message) as caught:
        server.client().files.create(file=(name, content), purpose="assistants")
    assert caught.value.status_code in (400, 413)


def test_files_that_cannot_be_read_say_why(serve: Serve) -> None:
    server = serve(options=ServerOptions(most_knowledge=200))
    broken, long = server.add("{", "broken.json"), server.add(TOWER * 10, "long.txt")
    assert broken.status == long.status == "error"
    assert "broken.json" in broken.status_details and "uploads" not in broken.status_details
    assert "of at most 200; split it" in long.status_details
    with pytest.raises(openai.NotFoundError, match="its status is failed"):
        read(server.client(), documents=[broken.id])


def test_vector_stores(server: Served) -> None:
    client = server.client()
    tower, ship = server.add(TOWER, "tower.txt"), server.add(SHIP, "ship.txt")
    store = client.vector_stores.create(name="things", file_ids=[tower.id])
    assert (store.file_counts.completed, store.status) == (1, "completed")
    assert client.vector_stores.files.create_and_poll(file_id=ship.id, vector_store_id=store.id).status == "completed"
    assert {file.id for file in client.vector_stores.files.list(store.id)} == {tower.id, ship.id}
    first = client.vector_stores.search(store.id, query="Who was the captain?").data[0]
    assert (first.file_id, first.filename, first.content[0].text) == (ship.id, "ship.txt", SHIP.strip())
    assert client.vector_stores.files.delete(ship.id, vector_store_id=store.id).deleted
    found = client.vector_stores.search(store.id, query=["Who", "was the captain?"]).data
    assert {result.file_id for result in found} == {tower.id}
    client.files.delete(tower.id)
    assert client.vector_stores.retrieve(store.id).file_counts.total == 0
    assert client.vector_stores.search(store.id, query="tower").data == []
    with pytest.raises(openai.BadRequestError, match="filters"):
        client.vector_stores.search(store.id, query="x", filters={"type": "eq", "key": "a", "value": 1})
    with pytest.raises(openai.NotFoundError, match="no file 'file-none'"):
        client.vector_stores.create(file_ids=["file-none"])
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(store.id)
    client.files.delete(ship.id)


def test_a_question_does_not_list_all_documents(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may hold many thousands: a question looks up the documents that it reads."""
    server = serve()
    file = server.add(TOWER)
    asked: list[object] = []
    table = server.state.reader.store.catalogue.documents
    select = table.select
    monkeypatch.setattr(table, "select", lambda bank="", ids=None: asked.append(ids) or select(bank, ids))
    for knowledge in ({"search": {"k": 1}}, {"documents": [file.id]}):
        answer = server.client().chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "how tall is the tower"}],
            max_tokens=2,
            extra_body={"knowledge": knowledge},
        )
        assert [source["id"] for source in answer.model_extra["knowledge"]["sources"]] == [file.model_extra["document"]]
    client = server.client()
    store = client.vector_stores.create(file_ids=[file.id])
    assert client.vector_stores.search(store.id, query="how tall is the tower").data[0].file_id == file.id
    assert len(asked) > 2 and all(ids is not None and len(ids) == 1 for ids in asked)


def test_a_tenant_never_reads_what_another_has(serve: Serve) -> None:
    server = serve(keys=KEYS)
    admin, ann, bob = server.client(ADMIN), server.client(ANN), server.client(BOB)
    tower, ship = server.add(TOWER, "ann's tower.txt", ANN), server.add(SHIP, "ship.txt", BOB)
    document = tower.model_extra["document"]
    assert [source["title"] for source in read(ann, search={})["sources"]] == ["ann's tower.txt"]
    assert [source["title"] for source in read(bob, search={})["sources"]] == ["ship.txt"]
    for name in (tower.id, document):
        with pytest.raises(openai.NotFoundError):
            read(bob, documents=[name])
        with pytest.raises(openai.NotFoundError):
            read(bob, search={}, documents=[name])
        assert read(admin, documents=[name])["sources"][0]["title"] == "ann's tower.txt"
    store = ann.vector_stores.create(file_ids=[tower.id])
    calls = [
        lambda: bob.files.retrieve(tower.id),
        lambda: bob.files.content(tower.id),
        lambda: bob.files.delete(tower.id),
        lambda: bob.vector_stores.retrieve(store.id),
        lambda: bob.vector_stores.search(store.id, query="tower"),
        lambda: bob.vector_stores.delete(store.id),
        lambda: bob.vector_stores.create(file_ids=[tower.id]),
        lambda: bob.vector_stores.files.create(file_id=ship.id, vector_store_id=store.id),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            call()
    assert [file.id for file in bob.files.list()] == [ship.id] and not list(bob.vector_stores.list())
    assert {file.id for file in admin.files.list()} == {tower.id, ship.id}
    # The same text of both is one document; each sees a name of its own, and deleting one leaves the other's.
    same = server.add(TOWER, "bob's.txt", BOB)
    assert same.model_extra["document"] == document
    ann.files.delete(tower.id)
    assert [source["title"] for source in read(bob, documents=[document])["sources"]] == ["bob's.txt"]
    with pytest.raises(openai.NotFoundError):
        read(ann, documents=[document])
    assert read(ann, search={})["sources"] == []


def test_a_document_from_a_folder_outlives_an_upload_of_the_same_text(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "tower.txt"
    path.write_text(TOWER)
    server = serve()
    store = server.state.reader.store
    assert store is not None
    store.add(path)
    file = server.add(TOWER)
    server.client().files.delete(file.id)
    assert [entry.title for entry in store.documents()] == ["tower.txt"]
    assert read(server.client(), search={})["sources"][0]["title"] == "tower.txt"


def test_deleting_while_others_upload_and_ask_loses_nothing(serve: Serve) -> None:
    server = serve(engine_options=EngineOptions(queue_size=64))
    server.add(SHIP, "ship.txt")
    errors: list[BaseException] = []

    def uploads(rounds: int) -> None:
        try:
            for _ in range(rounds):
                file = server.add(TOWER, "tower.txt")
                assert file.status == "processed", file.status_details
                try:
                    assert read(server.client(), documents=[file.id])["sources"]
                finally:
                    server.client().files.delete(file.id)
        except BaseException as error:
            errors.append(error)

    def questions(rounds: int) -> None:
        try:
            for _ in range(rounds):
                assert read(server.client(), search={})["sources"]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=uploads, args=(4,)) for _ in range(2)]
    threads += [threading.Thread(target=questions, args=(8,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [entry.title for entry in server.state.reader.store.documents()] == ["ship.txt"]  # type: ignore[union-attr]


def test_what_a_server_left_unread_is_read_by_the_next(tmp_path: Path) -> None:
    store = KnowledgeStore(tmp_path / "store", make_served_model())
    library = Library(store.folder)
    waiting = library.add(OWNER, "tower.txt", ".txt", "assistants", TOWER.encode())
    gone = library.add(OWNER, "ship.txt", ".txt", "assistants", SHIP.encode())
    library.settle(gone.id, "0" * 64, None)  # its document was lost in a power failure
    library.close()
    library = Library(store.folder)
    intake = Intake(library, store, Metrics(), 1000)
    deadline = time.monotonic() + 30
    while {file.document for file in library.files(OWNER)} != {entry.id for entry in store.documents()} and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    assert intake.stop()
    assert [entry.title for entry in store.documents()] == ["tower.txt", "ship.txt"]
    assert {library.file(OWNER, file.id).status for file in (waiting, gone)} == {"completed"}  # type: ignore[union-attr]


def test_a_file_whose_state_cannot_be_recorded_holds_up_no_other(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    library = server.state.intake.library
    settle, calls = library.settle, list[Any]()

    def full(*args: Any) -> bool:
        calls.append(args)
        if len(calls) <= 2:  # the document, then the error
            raise sqlite3.OperationalError("database or disk is full")
        return settle(*args)

    monkeypatch.setattr(library, "settle", full)
    server.client().files.create(file=("ship.txt", SHIP.encode()), purpose="assistants")
    assert server.add(TOWER).status == "processed" and len(calls) == 3


def test_bytes_without_a_row_are_removed_after_a_while(tmp_path: Path) -> None:
    import os

    library = Library(tmp_path)
    kept = library.path(library.add(OWNER, "a.txt", ".txt", "", b"a"))
    fresh, old = library.uploads / "file-1.txt", library.uploads / ".file-2.txt.abc"
    for path in (kept, fresh, old):
        path.write_bytes(b"a")
    for path in (kept, old):
        os.utime(path, (0, 0))
    Library(tmp_path)
    assert set(library.uploads.iterdir()) == {kept, fresh}


def test_requests_that_need_the_same_text_prepare_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import diekae.serve.reading as reading

    calls, prepare = [], reading.read_documents
    started = threading.Event()

    def slowly(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        started.wait(5)
        return prepare(*args, **kwargs)

    monkeypatch.setattr(reading, "read_documents", slowly)
    model = make_served_model()
    counted: list[int] = []
    reader = KnowledgeReader(model, None, None, count=counted.append)
    request, results, prompt = KnowledgeRequest(text=TOWER), [], Prompted(model.anchor, (5,), (5,), "?")
    threads = [threading.Thread(target=lambda: results.append(reader.read(request, OWNER, prompt))) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    started.set()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 1 and len({id(result.prepared) for result in results}) == 1 and len(counted) == 1
    # What fails is not kept.
    monkeypatch.setattr(reading, "read_documents", lambda *_, **__: 1 / 0)
    other = KnowledgeRequest(text=SHIP)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            reader.read(other, OWNER, prompt)
    # What takes too much room is forgotten.
    monkeypatch.setattr(reading, "read_documents", prepare)
    monkeypatch.setattr(reading, "KEPT_BYTES", int(1.5 * results[0].prepared.nbytes))
    reader.read(other, OWNER, prompt)
    assert len(reader._kept) == 1


def test_documents_are_found_by_the_embedder_of_the_server(serve: Serve) -> None:
    texts: list[str] = []

    def embed(batch: Sequence[str]) -> np.ndarray:
        texts.extend(batch)
        return np.ones((len(batch), 1), np.float32)

    server = serve(embedder=embed)
    assert server.add(SHIP, "ship.txt").status == "processed"
    assert len(read(server.client(), search={"k": 1})["sources"]) == 1
    assert texts[0].startswith("ship.txt. ") and texts[-1] == QUESTION[0]["content"]
    with pytest.raises(ValueError, match="an embedder finds passages of a store, but no store is named"):
        create_app(make_served_model(), embedder=embed)
