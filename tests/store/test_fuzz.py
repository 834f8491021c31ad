"""Texts, questions, names and damaged files of every kind, drawn by Hypothesis; FUZZ_EXAMPLES sets how many."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diekae import DiekaeModel, PreparedKnowledge
from diekae.store import KnowledgeStore

FEW = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20")), deadline=None)
ANY_TEXT = st.text(st.characters(), max_size=80)
"""With lone surrogates."""


@pytest.fixture(scope="module")
def store(model: DiekaeModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KnowledgeStore]:
    store = KnowledgeStore(tmp_path_factory.mktemp("fuzz") / "store", model)
    store.add("the castle is red")
    yield store
    assert not store.verify(), "after all examples"


@FEW
@given(before=ANY_TEXT, text=st.one_of(ANY_TEXT, st.just("a \ud800 b")))
def test_any_text_is_stored_as_it_is_or_refused_before_anything_is_written(
    store: KnowledgeStore, before: str, text: str
) -> None:
    count = len(store.documents())
    try:
        ids = store.add([before + " tower", text]).ids
    except ValueError as error:
        assert len(store.documents()) == count
        str(error).encode()
        assert store.add(f"tower {count}").ids, "later texts are added"
    else:
        assert store.text(ids[-1]) == text and store.prepared(*ids).token_count > 0


@FEW
@given(question=st.one_of(ANY_TEXT, st.just("\ud800")))
def test_any_question_is_answered_and_any_name_looked_up(store: KnowledgeStore, question: str) -> None:
    assert store.search(question + " castle")[0].text
    assert isinstance(store.search(question), list)
    try:
        assert store.text(question)
    except ValueError as error:
        str(error).encode()


NAME = st.one_of(st.binary(max_size=60), ANY_TEXT.map(lambda text: text.encode("utf-8", "replace")[:60]))
"""With bytes that are not UTF-8."""


@FEW
@given(name=NAME, data=st.binary(max_size=80))
def test_any_name_and_content_of_a_file_in_a_folder(store: KnowledgeStore, name: bytes, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = name.replace(b"/", b"-").replace(b"\x00", b"-")
        for suffix in (b".txt", b".html", b".json", b".csv", b".png"):
            (Path(folder) / os.fsdecode(b"x" + name + suffix)).write_bytes(data)
        (Path(folder) / "good.txt").write_text("the tower is blue")
        result = store.add(Path(folder))
        for text in (*result.skipped, *(part for failed in result.failed for part in failed)):
            text.encode()
        assert len(result.ids) >= 1 and len(result.skipped) == 1
        store.add(Path(folder), prune=True)


@FEW
@given(data=st.data())
def test_any_damage_of_prepared_knowledge_is_refused(model: DiekaeModel, data: st.DataObject) -> None:
    precision = data.draw(st.sampled_from(["exact", "bf16", "int8"]))
    content = model.prepare("the castle is red").to_bytes(precision)
    start = data.draw(st.integers(0, len(content) - 1))
    replacement = data.draw(st.binary(max_size=12))
    damaged = content[:start] + replacement + content[start + len(replacement) + data.draw(st.integers(0, 3)) :]
    if damaged == content:
        return
    with pytest.raises(ValueError, match="damaged"):
        PreparedKnowledge.from_bytes(damaged)
