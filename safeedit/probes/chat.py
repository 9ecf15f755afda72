"""Questions as a user puts them in a chat, for tokenizers that have a chat template.

A model that was trained to talk answers a conversation from other states than a bare text, so that what is
gone from the one may be left in the other. Where the tokenizer has a template, every phrasing is therefore
also put as a user's turn. The plan holds the words of the turn, marked; what the template makes of them
is written when the model is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from safeedit.errors import ProbeError
from safeedit.probes.base import Context
from safeedit.triples.catalogue import render_question

if TYPE_CHECKING:
    from safeedit.models.generate import Generation

MARK = "\ue000"
"""What a prompt begins with that is a user's turn; no text has this character by itself (private use)."""

Text = TypeVar("Text")
Write = Callable[[list[str], bool, int], Sequence[Text]]
"""Texts for some prompts, told whether the tokenizer puts its own tokens around them and how many prompts
were written to before."""

_HEAD, _TAIL = render_question(MARK).split(MARK)


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def both_ways(context: Context, templates: tuple[str, ...]) -> tuple[str, ...]:
    """Templates, and behind them the same as a user's turn, if the tokenizer has a chat template."""
    return (*templates, *map(_turn, templates)) if context.chat else templates


def ways(context: Context) -> int:
    """In how many ways each phrasing is put."""
    return 2 if context.chat else 1


def in_chat(prompt: str) -> bool:
    """Whether a prompt is a user's turn."""
    return prompt.startswith(MARK)


def _turn(template: str) -> str:
    """What a user says: a question without what a completion model needs around it; a sentence as it is."""
    asked = template.startswith(_HEAD) and template.endswith(_TAIL)
    return MARK + (template[len(_HEAD) : -len(_TAIL)] if asked else template)


def continued(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> list[Generation]:
    """Greedy continuations, those of users' turns behind what the chat template makes of them.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        prompts: the prompts.
        max_new_tokens: where a text is cut off.
        progress: called with the number of prompts done.
    """

    def write(texts: list[str], special: bool, before: int) -> Sequence[Generation]:
        from safeedit.models.generate import greedy

        def tell(done: int, _of: int) -> None:
            if progress is not None:
                progress(before + done)

        more = {} if special else {"special": False}
        return greedy(model, tokenizer, texts, max_new_tokens=max_new_tokens, progress=tell, **more)

    return each_way(tokenizer, prompts, write)


def each_way(tokenizer: Any, prompts: Sequence[str], write: Write[Text]) -> list[Text]:
    """A text for each prompt, in their order; users' turns are written to apart, through the chat template.

    Raises:
        ProbeError: a prompt was not answered.
    """
    plain = [prompt for prompt in prompts if not in_chat(prompt)]
    turns = [prompt for prompt in prompts if in_chat(prompt)]
    found: dict[str, list[Text]] = {}
    for asked, special, before in ((plain, True, 0), (turns, False, len(plain))):
        if not asked:
            continue
        texts = asked if special else [_rendered(tokenizer, prompt) for prompt in asked]
        written = write(texts, special, before)
        if len(written) != len(asked):
            raise ProbeError("not every prompt was answered")
        for prompt, text in zip(asked, written, strict=True):
            found.setdefault(prompt, []).append(text)
    return [found[prompt].pop(0) for prompt in prompts]


def _rendered(tokenizer: Any, prompt: str) -> str:
    turn = {"role": "user", "content": prompt[len(MARK) :]}
    text: str = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    return text
