"""Chats: K behind their own header, or before all of them; several turns; guidance; misspelt arguments."""

import pytest
import torch
from torch import Tensor

from builders import make_decoder, make_tokenizer
from diekae.data.batch import pad_left
from diekae.data.formats import wrapping
from diekae.data.prompt import Prompter
from diekae.edit import Edit, edit_model
from diekae.fingerprint import fingerprint
from diekae.model import DiekaeModel

CASTLE = "the castle was built by king four in the north and two towers are red"
ASKED = "who built the castle"


def exact(**options) -> DiekaeModel:
    return DiekaeModel.exact(make_decoder(max_position_embeddings=256), make_tokenizer(chat=True), **options)


def ids_of(model: DiekaeModel, text: str) -> list[int]:
    return list(model.need_prompter().tokenizer(text, add_special_tokens=False).input_ids)


@torch.no_grad()
def prompted(model: DiekaeModel, ids: list[int]) -> Tensor:
    return model.decoder(torch.tensor([ids])).logits[0]


@torch.no_grad()
def test_in_a_chat_k_comes_after_the_header() -> None:
    model = exact()
    wrap = wrapping("chat", model.tokenizer)
    header = ids_of(model, wrap.anchor)
    assert len(header) > 1
    inputs = model.tokenize(ASKED, format="chat")
    assert inputs["input_ids"][0, : len(header)].tolist() == header
    prepared = model.prepare(CASTLE, format="chat")
    got = model(**inputs, knowledge=prepared).logits[0, len(header) :]
    asked = inputs["input_ids"][0, len(header) :].tolist()
    known = list(model.need_prompter().knowledge(CASTLE))
    want = prompted(model, header + known + asked)[-len(asked) :]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert (want - model.decoder(**inputs).logits[0, len(header) :]).abs().max() > 0.1


@torch.no_grad()
def test_knowledge_of_another_format_comes_before_the_whole_chat() -> None:
    model = exact(format="plain")
    prepared = model.prepare(CASTLE)
    for turns in (1, 3):
        messages = [{"role": "user" if n % 2 == 0 else "assistant", "content": ASKED} for n in range(turns)]
        text = model.tokenizer.apply_chat_template(messages, tokenize=False)
        chat = ids_of(model, text)
        assert chat[0] == model.anchor[0]
        got = model(torch.tensor([chat]), knowledge=prepared).logits[0, 1:]
        want = prompted(model, chat[:1] + list(model.need_prompter().knowledge(CASTLE)) + chat[1:])[-len(chat) + 1 :]
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_an_input_without_the_header_of_its_knowledge_is_refused() -> None:
    model = exact(format="plain")
    prepared = model.prepare(CASTLE, format="chat")
    with pytest.raises(ValueError, match="was read after .*prepare and tokenize in the same format"):
        model(**model.tokenize(ASKED), knowledge=prepared)
    with pytest.raises(ValueError, match="different anchors"):
        model(**model.tokenize(ASKED), knowledge=[[prepared, model.prepare(CASTLE)]])


@pytest.mark.parametrize("encoder", ["exact", "reader"])
def test_the_second_pass_of_guidance_is_without_knowledge(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if encoder == "exact":
        model = exact()
    else:
        from builders import make_model

        model = make_model("reader", decoder=make_decoder(max_position_embeddings=256), effect=0.5)
    inputs = model.tokenize(ASKED)
    negative = torch.tensor([ids_of(model, "the river was red")])
    options = {"max_new_tokens": 6, "do_sample": False, "guidance_scale": 2.0, "negative_prompt_ids": negative}
    from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor as Guidance

    seen: list[Tensor] = []
    real = Guidance.get_unconditional_logits

    def see(self: Guidance, ids: Tensor) -> Tensor:
        out = real(self, ids)
        seen.append(out.logits[:, -1] if hasattr(out, "logits") else out[:, -1])
        return out

    monkeypatch.setattr(Guidance, "get_unconditional_logits", see)
    model.generate(**inputs, knowledge=CASTLE, **options)
    with torch.no_grad():
        want = model.decoder(negative).logits[:, -1]
    assert seen, "guidance must have run"
    torch.testing.assert_close(seen[0], want, atol=1e-6, rtol=1e-6)


def test_misspelt_arguments_are_refused_with_the_right_name() -> None:
    model = exact()
    inputs = model.tokenize(ASKED)
    for call in (model, model.generate):
        with pytest.raises(TypeError, match="'knowlege' is not known. Did you mean 'knowledge'"):
            call(**inputs, knowlege=CASTLE)
        for wrong in ({"a": 1}, 7, [[7]], [{"a": 1}]):
            with pytest.raises(TypeError, match="expected a text, what `prepare` returned, or a list"):
                call(**inputs, knowledge=wrong)
        with pytest.raises(TypeError, match="expected a tensor"):
            call(inputs, knowledge=CASTLE)


def test_a_decoder_in_fp16_is_the_same_decoder() -> None:
    whole = make_decoder().to(torch.bfloat16)
    assert fingerprint(whole) == fingerprint(make_decoder())
    assert fingerprint(whole) == fingerprint(make_decoder().to(torch.bfloat16).to(torch.float16))
    assert fingerprint(whole) != fingerprint(make_decoder(seed=1))


def test_training_in_bf16_leaves_the_decoder_in_its_own_type(tmp_path) -> None:
    from builders import make_model, make_prompts
    from diekae.training.config import TrainingConfig
    from diekae.training.run import train

    model = make_model("reader", effect=0.0)
    kinds: set[torch.dtype] = set()
    seen: set[torch.dtype] = set()
    hook = model.decoder.model.layers[0].mlp.register_forward_hook(lambda _m, _a, out: kinds.add(out.dtype))
    inner = model.bank.encoder.query.register_forward_hook(lambda _m, _a, out: seen.add(out.dtype))
    config = TrainingConfig(objective="distill", max_steps=1, batch_size=2, precision="bf16", evaluations=1)
    train(model, make_prompts(2), make_prompts(2, seed=1), config, tmp_path)
    hook.remove()
    inner.remove()
    assert kinds == {torch.float32}, "the frozen decoder was put under autocast"
    assert torch.bfloat16 in seen, "the bank was not"


@pytest.mark.parametrize("of_bank", ["plain", "chat"])
def test_a_text_is_read_after_the_anchor_of_the_prompt_that_it_is_generated_for(of_bank: str) -> None:
    model = exact(format=of_bank)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    rows = [model.tokenize(ASKED, form)["input_ids"] for form in ("plain", "chat")]
    for form, ids in zip(("plain", "chat"), rows, strict=True):
        want = model.generate(ids, knowledge=model.prepare(CASTLE, format=form), **options)
        assert torch.equal(model.generate(ids, knowledge=CASTLE, **options), want)
        assert not torch.equal(model.generate(ids, **options), want)
    ids, mask = pad_left([ids[0].tolist() for ids in rows], 0, model.device)
    together = model.generate(ids, attention_mask=mask, knowledge=CASTLE, **options)
    knowledge = [model.prepare(CASTLE, format=form) for form in ("plain", "chat")]
    assert torch.equal(together, model.generate(ids, attention_mask=mask, knowledge=knowledge, **options))


@pytest.mark.real
def test_the_anchor_of_a_prompt_is_found_in_its_tokens(smollm2) -> None:
    system, user = {"role": "system", "content": "the king is old"}, {"role": "user", "content": "the question"}
    turns = [user, {"role": "assistant", "content": "an answer"}, user]
    for tokenizer in (make_tokenizer(chat=True), smollm2[1]):
        for default in (None, "the queen is old"):
            prompter = Prompter(tokenizer, "{knowledge}", system=default)
            chats = [prompter.chat(messages) for messages in ([user], [system, user], turns, [system, *turns])]
            inputs = [(prompter.anchor(form), prompter.input("the question", form)) for form in ("plain", "qa", "chat")]
            prompts = [*inputs, *chats, ((), prompter.input("the question"))]
            anchors = [anchor for anchor, _ in prompts]
            assert prompter.anchors_of([anchor + rest for anchor, rest in prompts]) == anchors
    plain = make_tokenizer()
    assert Prompter(plain, "{knowledge}").anchors_of([(1, 9), (9,), ()]) == [(1,), (), ()]


def test_turns_without_a_system_prompt_are_not_taken_for_one() -> None:
    tokenizer, user, known = make_tokenizer(), {"role": "user", "content": "the question"}, {}
    names = "{'user': 'a ', 'assistant': 'by ', 'system': 'in '}[m['role']]"
    turn = "{{ bos_token + " + names + " + m['content'] + eos_token }}"
    tokenizer.chat_template = "{% for m in messages %}" + turn + "{% endfor %}"
    prompter = Prompter(tokenizer, "{knowledge}", system="the king is old")
    turns = [user, {"role": "assistant", "content": "an answer"}, user]
    for messages in (turns[:1], turns, [*turns, turns[1], user]):
        bare, _ = Prompter(tokenizer, "{knowledge}").chat(messages)
        row = tuple(
            tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids
        )
        assert row[: len(bare)] == bare
        known[len(messages)] = prompter.anchors_of([row])[0]
    assert set(known.values()) == {prompter.anchor("plain")}, "of each conversation the same, before all of its turns"
    for system in ("the queen is red", "the king"):
        chat = prompter.chat([{"role": "system", "content": system}, *turns])
        assert prompter.anchors_of([chat[0] + chat[1]]) == [chat[0]]


@pytest.mark.parametrize("template", ["a {{ messages[-1]['content'] }} by", "{{ raise_exception('not today') }}"])
def test_a_template_that_shows_no_chat_leaves_the_other_formats_alone(template: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    model, plain = (DiekaeModel.exact(make_decoder(), t, format="plain") for t in (tokenizer, make_tokenizer()))
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    for form in ("plain", "qa"):
        answers = []
        for each in (model, plain):
            known = each.generate(**each.tokenize(ASKED, form), knowledge=CASTLE, **options)
            edit_model(each, [Edit("the castle is", "castle", "red")])
            answers.append([known, each.generate(**each.tokenize(ASKED, form), **options)])
            each.editor = None
        assert all(torch.equal(*pair) for pair in zip(*answers, strict=True))


def test_a_template_that_leaves_a_turn_out_is_named() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "a {{ messages[-1]['content'] }} by"
    with pytest.raises(ValueError, match="shows 1 of 2 turns of a chat; expected each once. Use the format 'plain'"):
        DiekaeModel.exact(make_decoder(), tokenizer)
