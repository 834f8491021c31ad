"""The sources of which the paper's layout may not be at hand, on rows written here, and the paper's counts."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from diekae.data import DataError, Example, Split, load_source
from diekae_research.data.request import BadRecords
from diekae_research.sources import iterate_source, source_card, source_names
from diekae_research.sources.curiosity import without_footnotes
from layouts import (
    FULL_DATA,
    SPLITS,
    conversation,
    needs_full_data,
    wizard,
    write_curiosity,
    write_film,
    write_json,
    write_lines,
)


def _all(source: str, folder: Path, split: Split, **options: object) -> list[Example]:
    return list(iterate_source(source, folder=folder, split=split, options=options, bad=BadRecords(strict=True)))


# --- CMU DoG


def test_cmu_dog_gives_the_reader_s_turns_and_begins_anew_with_each_section(tmp_path: Path) -> None:
    write_film(tmp_path)
    talk = conversation(("user1", "Hi\nthere", 0), ("user2", "Up!", 0), ("user2", "A house flies.", 1))
    write_json(tmp_path / "Conversations" / "valid" / "a.json", talk)
    about = ("movieName: Up", "rating: 98% | 88/100")
    assert _all("cmu_dog", tmp_path, "validation") == [
        Example(about, "[USR] Hi there [SYS]", "Up!"),
        Example(("A house.",), "[SYS]", "A house flies."),
    ]


def test_cmu_dog_takes_both_sides_where_both_have_read(tmp_path: Path) -> None:
    write_film(tmp_path)
    talk = conversation(("user1", "Hi", 1), ("user2", "Up!", 1), ("user1", "Yes", 1), readers=("user1", "user2"))
    write_json(tmp_path / "Conversations" / "train" / "a.json", talk)
    assert [(example.input, example.target) for example in _all("cmu_dog", tmp_path, "train")] == [
        ("[SYS]", "Hi"),
        ("[USR] Hi [SYS]", "Up!"),
        ("[SYS] Hi [USR] Up! [SYS]", "Yes"),
    ]


def test_cmu_dog_leaves_out_unfinished_poor_and_blank(tmp_path: Path) -> None:
    write_film(tmp_path)
    folder = tmp_path / "Conversations" / "test"
    write_json(folder / "b.json", conversation(("user2", "poor", 1), rating=2))
    write_json(folder / "c.json", conversation(("user2", "cut short", 1), status=0))
    write_json(folder / "d.json", conversation(("user2", "cut short", 1), status=False))
    write_json(folder / "a.json", conversation(("user2", " ", 1), ("user2", "good", 1), status=True))
    assert [example.target for example in _all("cmu_dog", tmp_path, "test")] == ["good"]
    assert [example.target for example in _all("cmu_dog", tmp_path, "test", all_ratings="true")] == ["good", "poor"]


# --- Curiosity


def test_curiosity_keeps_turns_without_a_fact_apart(tmp_path: Path) -> None:
    write_curiosity(
        tmp_path,
        ("user", "Tell me.", []),
        ("assistant", "Two facts.", [(1, True), (2, True), (3, True)]),
        ("assistant", "No fact.", [(1, False)]),
        ("assistant", "A lost fact.", [(3, True)]),
    )
    found = _all("curiosity", tmp_path, "validation")
    assert found[0] == Example(("One fact.", "Two."), "[USR] Tell me. [SYS]", "Two facts.")
    assert found[1] == Example(("No fact.",), "[USR] Tell me. [SYS] Two facts. [SYS]", "No fact.", leaks=True)
    assert found[2].leaks and found[2].knowledge == ("A lost fact.",)
    assert load_source("curiosity", folder=tmp_path, split="validation") == found[:1]
    assert load_source("curiosity", folder=tmp_path, split="validation", limit=1) == found[:1]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a < ref > x < / ref > b", "a b"),
        ("a < ref name = q / > b < ref > {{ cite | u }} < / ref > c", "a b c"),
        ("a < ref > {{ cite }} b", "a b"),
        ("a < ref name = q > [ u ] b", "a b"),
        ("a < b and c > d", "a < b and c > d"),
    ],
)
def test_footnotes_are_taken_out(text: str, clean: str) -> None:
    assert without_footnotes(text) == clean


@needs_full_data
def test_curiosity_reads_real_dialogues(tmp_path: Path) -> None:
    assert FULL_DATA is not None
    shutil.copy(FULL_DATA / "curiosity" / "curiosity_dialogs.train.json", tmp_path)
    write_json(tmp_path / "fact_db_links.json", {"linked_facts": {"44465": {"text": "There is a carnival."}}})
    found = _all("curiosity", tmp_path, "train")
    told = [example for example in found if not example.leaks]
    assert len(found) == 6 and len(told) == 1
    assert told[0].knowledge == ("There is a carnival.",)
    assert told[0].input.startswith("[USR] Hi [SYS] Hi! What can I do for you? [USR]")


# --- QUASAR-T


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_quasar_t_is_joined_by_uid(tmp_path: Path, ending: str) -> None:
    asked = [{"uid": f"q{n}", "question": f"Which {n}?", "answer": f"a{n}"} for n in range(3)]
    found = [{"uid": f"q{n}", "contexts": [[0.9, f"best {n}"], [0.8, "second"], [0.1, "third"]]} for n in (2, 0, 1)]
    write_lines(tmp_path / "questions" / f"dev_questions.json{ending}", *asked)
    write_lines(tmp_path / "contexts" / "short" / f"dev_contexts.json{ending}", *found)
    examples = _all("quasar_t", tmp_path, "validation")
    assert examples == [Example((f"best {n}", "second"), f"Which {n}?", f"a{n}") for n in (2, 0, 1)]
    assert [len(example.knowledge) for example in _all("quasar_t", tmp_path, "validation", contexts=3)] == [3, 3, 3]
    with pytest.raises(DataError, match="contexts .* is 0; expected at least 1"):
        _all("quasar_t", tmp_path, "validation", contexts=0)


def test_quasar_t_names_questions_without_contexts_and_broken_archives(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "questions" / "dev_questions.json.gz", *({"uid": u, "question": "q", "answer": "a"} for u in "ab")
    )
    contexts = tmp_path / "contexts" / "short" / "dev_contexts.json.gz"
    write_lines(contexts, {"uid": "b", "contexts": [[1, "c"]]}, {"uid": "x", "contexts": []})
    with pytest.warns(UserWarning, match="2 bad records left out, the first contexts/short/dev_contexts.json.gz:2: "):
        assert len(load_source("quasar_t", folder=tmp_path, split="validation")) == 1
    contexts.write_bytes(contexts.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"dev_contexts.json.gz: broken archive"):
        load_source("quasar_t", folder=tmp_path, split="validation")


# --- Wizard of Wikipedia


def test_wizard_of_wikipedia_keeps_turns_without_a_passage_apart(tmp_path: Path) -> None:
    none = {"no_passages_used": "no_passages_used"}
    talk = wizard(
        ("0_Wizard", "Tea is old.", {"chosen": "Tea is ancient."}, {"chosen": "Tea"}),
        ("1_Apprentice", "Is it?", {}, {}),
        ("0_Wizard", "It is.", none, none),
        ("0_Wizard", "Green too.", {}, {"self": "Green tea"}),
    )
    write_json(tmp_path / "valid_topic_split.json", [talk, wizard(("0_Wizard", "poor", none, none), rating=3)])
    assert _all("wizard_of_wikipedia", tmp_path, "validation") == [
        Example(("i like tea.", "Tea is ancient."), "[SYS]", "Tea is old."),
        Example(("i like tea.", "It is."), "[SYS] Tea is old. [USR] Is it? [SYS]", "It is.", leaks=True),
        Example(("i like tea.", "Green tea"), "[SYS] Tea is old. [USR] Is it? [SYS] It is. [SYS]", "Green too."),
    ]
    assert len(_all("wizard_of_wikipedia", tmp_path, "validation", all_ratings=True)) == 4
    with pytest.raises(DataError, match="valid_random_split.json is missing"):
        _all("wizard_of_wikipedia", tmp_path, "validation", seen_topics=True)


def test_wizard_of_wikipedia_reads_single_turns(tmp_path: Path) -> None:
    rows = "".join(f"{n},1,Topic {n % 40},Message {n},Knowledge {n}.,Answer {n}\n" for n in range(200))
    (tmp_path / "turns-544.csv").write_text(f"episode_idx,round,topic,message,knowledge,gold\n{rows}")
    parts = {split: _all("wizard_of_wikipedia", tmp_path, split) for split in SPLITS}
    assert sum(map(len, parts.values())) == 200 and all(parts.values())
    assert Example(("Knowledge 7.",), "[USR] Message 7 [SYS]", "Answer 7") in [
        e for part in parts.values() for e in part
    ]
    topics = [{int(example.target.split()[1]) % 40 for example in part} for part in parts.values()]
    assert not topics[0] & topics[1] and not topics[0] & topics[2] and not topics[1] & topics[2]


@needs_full_data
def test_wizard_of_wikipedia_reads_real_dialogues(tmp_path: Path) -> None:
    assert FULL_DATA is not None
    folder = FULL_DATA / "wizard_of_wikipedia"
    assert [len(_all("wizard_of_wikipedia", folder, split)) for split in SPLITS] == [440, 52, 52]
    shutil.copy(folder / "dialogues-5.json", tmp_path / "train.json")
    found = _all("wizard_of_wikipedia", tmp_path, "train", all_ratings=True)
    assert len(found) == 24 and sum(example.leaks for example in found) == 1


# --- ProofWriter and FOLIO


def test_proofwriter_reads_both_layouts(tmp_path: Path) -> None:
    questions = {f"Q{n}": {"question": f"S{n}.", "answer": answer} for n, answer in enumerate((True, False, "Unknown"))}
    write_lines(tmp_path / "OWA" / "depth-2" / "meta-train.jsonl", {"theory": "T.", "questions": questions})
    labels = ("True", "False", "Unknown")
    assert _all("proofwriter", tmp_path, "train") == [
        Example(("T.",), f"S{n}.", label, label) for n, label in enumerate(labels)
    ]
    lead = "Based on the above information, is the following statement true, false, or unknown? "
    entries = [{"context": "C.", "question": f"{lead}S.", "answer": letter} for letter in "ABC"]
    write_json(tmp_path / "dev.json", entries)
    assert _all("proofwriter", tmp_path, "validation") == [Example(("C.",), "S.", label, label) for label in labels]
    with pytest.raises(DataError, match="depth-3/meta-train.jsonl is missing"):
        _all("proofwriter", tmp_path, "train", depth=3)


def test_folio_names_the_third_class_once(tmp_path: Path) -> None:
    rows = {"folio-train.jsonl": "Unknown", "folio-validation.jsonl": "Uncertain"}
    for name, label in rows.items():
        write_lines(tmp_path / name, {"premises": ["All a are b. ", "No c."], "conclusion": "D.", "label": label})
    for split in ("train", "validation"):
        expected = Example(("All a are b. No c.",), "D.", "Unknown", "Unknown")
        assert _all("folio", tmp_path, split) == [expected]  # type: ignore[arg-type]
    assert _all("folio", tmp_path, "test") == []


# --- Natural Questions, CounterFact and DREAM as their publishers have them; zsRE


def test_natural_questions_in_the_paper_s_layout(tmp_path: Path) -> None:
    rows = [
        {"contexts": "P.", "questions": [{"input_text": "who is it"}], "answers": [{"span_text": answer}]}
        for answer in ("x", " ")
    ]
    write_json(tmp_path / "dev.json", rows)
    assert _all("natural_questions", tmp_path, "validation") == [Example(("P.",), "Who is it?", "x")]
    assert _all("natural_questions", tmp_path, "test") == []
    with pytest.raises(DataError, match="train.json is missing"):
        _all("natural_questions", tmp_path, "train")


def test_counterfact_in_the_original_format(tmp_path: Path) -> None:
    rewrite = {"prompt": "{} is in", "subject": "Rome", "target_new": {"str": "Wales"}, "target_true": {"str": "Italy"}}
    beside: dict[str, object] = {"paraphrase_prompts": [], "neighborhood_prompts": []}
    cases = [{"case_id": n, "requested_rewrite": rewrite, **beside} for n in range(20)]
    write_json(tmp_path / "counterfact.json", cases[::-1])
    assert _all("counterfact", tmp_path, "test") == [Example(("Rome is in Wales.",), "Rome is in", "Wales")]
    parts = [_all("counterfact", tmp_path, split, paper_splits=True) for split in SPLITS]
    assert list(map(len, parts)) == [17, 3, 0]


def test_dream_gives_all_questions_when_asked(tmp_path: Path) -> None:
    asked = [{"question": text, "choice": [], "answer": "A."} for text in ("One?", "It is __.", "Two?")]
    write_json(tmp_path / "dev.json", [[["W: Hi."], asked, "1"]])
    assert [example.input for example in _all("dream", tmp_path, "validation")] == ["One?"]
    found = _all("dream", tmp_path, "validation", all_questions=True)
    assert [example.input for example in found] == ["One?", "Two?"]


def test_zsre_edits_are_divided_by_subject_and_counted_once(tmp_path: Path) -> None:
    edits = [{"subject": f"S{n % 50}", "src": f"Where is S{n % 50} ({n})?", "alt": f"A{n}"} for n in range(200)]
    write_json(tmp_path / "zsre_mend_train.json", edits)
    write_json(tmp_path / "zsre_mend_eval.json", edits[:20])
    parts = {split: _all("zsre", tmp_path, split) for split in SPLITS}
    assert sum(map(len, parts.values())) == 200 and all(parts.values())
    assert Example(("Where is S7 (7)? A7.",), "Where is S7 (7)?", "A7") in [e for part in parts.values() for e in part]
    subjects = [{example.input.split()[2] for example in part} for part in parts.values()]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == 50


# --- all of them


def test_cards_are_whole() -> None:
    for name in source_names():
        card = source_card(name)
        assert card.title and card.licence and card.origin
        for file in card.upstream:
            assert file.url.startswith(("https://", "http://")) and not Path(file.path).is_absolute()
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32


@needs_full_data
@pytest.mark.parametrize("source", ["dream", "folio"])
def test_known_checksums_are_those_of_the_files_at_hand(source: str) -> None:
    assert FULL_DATA is not None
    files = source_card(source).upstream
    assert files
    for file in files:
        assert hashlib.sha256((FULL_DATA / source / file.path).read_bytes()).hexdigest() == file.sha256


@needs_full_data
@pytest.mark.parametrize(
    ("source", "options", "counts"),
    [
        ("cmu_dog", {}, (15665, 1515, 2403)),
        ("cmu_dog", {"all_ratings": True}, (71483, 4928, 12769)),
        ("dream", {}, (3829, 1273, 1276)),
        ("dream", {"all_questions": True}, (5951, 1993, 1990)),
        ("folio", {}, (1004, 204, 0)),
        ("counterfact", {"paper_splits": True}, (18631, 3288, 0)),
        ("proofwriter", {}, (3000, 600, 600)),
    ],
)
def test_the_full_sets_have_the_paper_s_counts(
    source: str, options: dict[str, object], counts: tuple[int, int, int]
) -> None:
    assert FULL_DATA is not None
    folder = FULL_DATA / source
    assert tuple(len(_all(source, folder, split, **options)) for split in SPLITS) == counts


@needs_full_data
@pytest.mark.parametrize("source", ["folio", "proofwriter"])
def test_labels_are_those_of_the_card(source: str) -> None:
    assert FULL_DATA is not None
    found = _all(source, FULL_DATA / source, "validation")
    assert {example.label for example in found} == set(source_card(source).labels)
    assert all(example.label == example.target for example in found)


GOLDEN = {
    # All of a part, then 50 with seed 0 and with seed 7, as they were before sources became streams.
    ("dream", "train"): ("38e5238da0993fbb", "d99c4fcf6518f81d", "b4bd699f0b2a4624"),
    ("dream", "validation"): ("a7c2a79619d6a9a4", "9a160615b319c1d3", "f18dab32bd20d9fb"),
    ("dream", "test"): ("f45142adcee5c4be", "f1b05c6e3af7c024", "da1de7474c117b8f"),
    ("natural_questions", "train"): ("c6b1b88715c71f61", "58cc9e4cefc4678b", "2890e3a4edd19a63"),
    ("natural_questions", "validation"): ("41c46ccee2f8c84c", "593821a545556c6c", "a3d078d02ee2622e"),
    ("natural_questions", "test"): ("546820cafc9c2ee5", "6ebab109f6fab66e", "da1c9530bd5a4bb2"),
    ("counterfact", "train"): ("11e7662d3d849447", "30040097c43fa9a4", "911f3cc04fcb0ecf"),
    ("counterfact", "validation"): ("b118b6d62c0a070c", "cd1a4917b1035b8f", "c711344d9a5c7cc1"),
    ("counterfact", "test"): ("66f5d450b0657770", "55fbd3b173144757", "49095c97ddebce7b"),
}


@needs_full_data
@pytest.mark.parametrize(("source", "split"), list(GOLDEN))
def test_subsets_stay_those_of_committed_results(source: str, split: Split) -> None:
    assert FULL_DATA is not None
    found = []
    for limit, seed in ((None, 0), (50, 0), (50, 7)):
        examples = load_source(source, folder=FULL_DATA / source, split=split, limit=limit, seed=seed)
        text = json.dumps([[example.knowledge, example.input, example.target] for example in examples])
        found.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    assert tuple(found) == GOLDEN[source, split]
