"""Which columns of a prepared document are the tokens of spans of its text."""

import pytest

from diekae.data.prompt import Prompter
from tokenizations import KINDS, TEMPLATES, TEXTS, spans_of, tokenizer_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_columns_are_the_tokens_of_the_template_and_of_the_spans(kind: str, template: str) -> None:
    """Computed in another way: from the token of each character."""
    tokenizer = tokenizer_of(kind)
    prompter = Prompter(tokenizer, template)
    before, after = template.split("{knowledge}")
    split = any(token in template for token in ("<s>", "</s>"))
    for text in TEXTS:
        ids = prompter.knowledge(text)
        everything = list(range(len(ids)))
        assert prompter.columns(text, [(0, len(text))]) == everything
        frame = prompter.columns(text, [])
        first = len(tokenizer(before, add_special_tokens=False).input_ids) if split else 0
        last = len(ids) - (len(tokenizer(after, add_special_tokens=False).input_ids) if split else 0)
        lead, tail = ("", "") if split else (before, after)
        encoded = tokenizer(lead + text + tail, add_special_tokens=False, split_special_tokens=True)
        assert encoded.input_ids == list(ids[first:last]), "the tokens of the text are between those of the template"
        if split:
            assert set(frame) >= {*range(first), *range(last, len(ids))}
        columns_of_character: dict[int, set[int]] = {}
        for position in range(len(text)):
            for token in range(len(encoded.input_ids)):
                left, right = encoded.token_to_chars(token) or (0, 0)
                if left <= len(lead) + position < right:
                    columns_of_character.setdefault(position, set()).add(first + token)
        assert not split or not set(frame) & set().union(*columns_of_character.values())
        for seed in range(12):
            spans = spans_of(text, seed)
            expected = {
                token for a, b in spans for position in range(a, b) for token in columns_of_character.get(position, ())
            }
            assert prompter.columns(text, spans) == sorted(expected | set(frame)), spans
        rest = {*everything} - {*frame} - set().union(*columns_of_character.values())
        assert not rest, "every token belongs to a character or to the template"


def test_control_tokens_in_a_document_are_text_with_columns_of_their_own() -> None:
    prompter = Prompter(tokenizer_of("bytes"), "</s>{knowledge}")
    text = "the </s> tower"
    ids = prompter.knowledge(text)
    end = tokenizer_of("bytes").eos_token_id
    assert ids.count(end) == 1 and ids[0] == end
    place = text.index("</s>")
    columns = prompter.columns(text, [(place, place + 4)])
    assert tokenizer_of("bytes").decode([ids[column] for column in columns[1:]]).strip() == "</s>"


def test_columns_need_a_tokenizer_that_maps_characters() -> None:
    class Slow:
        is_fast, all_special_tokens = False, ("<s>",)

    with pytest.raises(ValueError, match="need a fast tokenizer"):
        Prompter(Slow(), "{knowledge}").columns("text", [(0, 1)])  # type: ignore[arg-type]
