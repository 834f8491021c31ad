"""A file's name given as knowledge is no knowledge."""

from pathlib import Path

import pytest

from builders import make_model


def test_a_files_name_given_as_knowledge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make_model("attention"), None
    inputs = model.tokenize("what is the tower")
    monkeypatch.chdir(tmp_path)
    model(**inputs, knowledge="tower")  # nothing is so named yet
    (tmp_path / "tower").write_text("the tower is blue")
    (tmp_path / "docs").mkdir()
    for knowledge in ("tower", [["the sea is red", "tower"]], str(tmp_path / "tower")):
        with pytest.raises(ValueError, match="a file of that name exists; give the file's content: Path"):
            model(**inputs, knowledge=knowledge)
    with pytest.raises(ValueError, match="let a KnowledgeStore read it"):
        model.prepare(["the sea is red", "tower"])
    assert len(model.prepare("tower\n")) == len(model.prepare("old"))
    for text in ("docs", "the tower is blue", "the tower\nis blue", "a" * 5000, "no\x00name"):
        assert len(model.prepare(text)), "all these are texts"
