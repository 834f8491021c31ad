"""Ctrl-C at any instant: no hook stays, and the thread runs the decoder as before."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import pytest
import torch
from torch._dynamo import eval_frame

from builders import hook_count, make_model
from diekae.inject.contexts import claims
from diekae.inject.hooks import apply_hook, detach_blocks
from readings import CASTLE, QUESTIONS, RIVER, make_exact

# Python swallows an exception in a finaliser, and says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def gradients() -> Iterator[None]:
    """PyTorch's own `no_grad` may be interrupted before it gives gradients back."""
    yield
    torch.set_grad_enabled(True)


class Interrupt:
    """Raises KeyboardInterrupt at one instruction of the Python code that runs inside the block; counts them all.

    `threading` is left out: Python delivers Ctrl-C at fewer places than these, never between taking a lock and the
    `with` block that gives it back.
    """

    def __init__(self, at: int = -1) -> None:
        self.at, self.count, self.place = at, 0, ""

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename == threading.__file__:
            return None
        frame.f_trace_opcodes = True
        self.count += 1
        if self.count - 1 == self.at:
            self.place = f"{frame.f_code.co_qualname}:{frame.f_lineno} ({event})"
            raise KeyboardInterrupt
        return self.trace

    def __enter__(self) -> "Interrupt":
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(None)


def enter_and_leave(make: Callable[[], AbstractContextManager[object]], at: int = -1) -> Interrupt:
    """Enter and leave a block, interrupted at one instruction."""
    interrupt = Interrupt(at)
    try:
        with interrupt:
            with make():
                pass
    except KeyboardInterrupt:
        pass
    return interrupt


@pytest.mark.parametrize(("bank", "stride"), [("exact", 17), ("attention", 61), ("reader", 41), ("token", 41)])
def test_an_interruption_at_any_instruction_leaves_the_decoder_as_it_was(
    bank: str, stride: int, record_property: Callable[[str, object], None]
) -> None:
    model = make_exact(layers=[1]) if bank == "exact" else make_model(bank, layers=(1, 2))
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    castle, river = model.prepare(CASTLE), model.prepare(RIVER)
    keyword_hooks = [module._forward_pre_hooks_with_kwargs for module in model.decoder.modules()]
    with torch.no_grad():
        bare, with_river = model.decoder(ids).logits, model(ids, knowledge=river).logits

    def check(interrupt: Interrupt) -> None:
        assert hook_count(model.decoder) == 0, interrupt.place
        assert not any(keyword_hooks), interrupt.place
        assert not claims(), interrupt.place

    instructions = enter_and_leave(lambda: model.injected(castle, ids)).count
    assert instructions > 500
    record_property("tries", len(range(0, instructions, stride)))
    for at in range(0, instructions, stride):
        interrupt = enter_and_leave(lambda: model.injected(castle, ids), at)
        assert interrupt.place or at > 0.9 * instructions, "with the compiler at eager there are a few less"
        check(interrupt)
        with model.injected(castle, ids):
            assert eval_frame._stance.stance == "force_eager", interrupt.place
        assert eval_frame._stance.stance == "default", interrupt.place
        if at % (stride * 20) == 0:
            with torch.no_grad():
                assert torch.equal(model.decoder(ids).logits, bare), interrupt.place
                assert torch.equal(model(ids, knowledge=river).logits, with_river), interrupt.place


def test_an_interruption_at_every_instruction_of_a_block_of_hooks_leaves_none(
    record_property: Callable[[str, object], None],
) -> None:
    model = make_model(layers=(1,))
    makers: list[Callable[[], AbstractContextManager[object]]] = [
        lambda: apply_hook(model.hookpoints, lambda *_: None),
        lambda: detach_blocks(model.decoder),
    ]
    tries = 0
    for make in makers:
        instructions = enter_and_leave(make).count
        tries += instructions
        for at in range(instructions):
            interrupt = enter_and_leave(make, at)
            assert hook_count(model.decoder) == 0, interrupt.place
    record_property("tries", tries)


def test_an_interruption_while_the_decoder_runs_leaves_no_hook() -> None:
    model = make_model()
    ids = model.tokenize(QUESTIONS[0])["input_ids"]
    castle = model.prepare(CASTLE)
    with torch.no_grad():
        bare, want = model.decoder(ids).logits, model(ids, knowledge=castle).logits
        with Interrupt() as whole:
            model(ids, knowledge=castle)
        raised = 0
        for at in range(0, whole.count, whole.count // 40):
            interrupt = Interrupt(at)
            try:
                with interrupt:
                    model(ids, knowledge=castle)
            except KeyboardInterrupt:
                raised += 1
            assert interrupt.place
            assert hook_count(model.decoder) == 0
            assert torch.equal(model.decoder(ids).logits, bare)
            assert torch.equal(model(ids, knowledge=castle).logits, want)
            assert eval_frame._stance.stance == "default", interrupt.place
        assert raised > 30
