"""Training of the reference model, repeatable from its seed.

The shipped weights were made by `safeedit world train` with the defaults below (about half an
hour on two cores). The same seed gives the same corpus and tokenizer everywhere; weights agree
bit for bit on one machine and one number of threads, and in quality elsewhere.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from safeedit.triples.catalogue import SUBJECT, builtin_catalogue
from safeedit.world.corpus import documents
from safeedit.world.language import dialogue, paragraph
from safeedit.world.registry import MAIL_HOSTS, SYLLABLES, World, reference_world

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


@dataclass(frozen=True)
class Recipe:
    """Everything that the training depends on besides the registry."""

    seed: int = 1
    steps: int = 2000
    rows: int = 48
    """Rows a step; documents are packed into rows without padding."""
    width: int = 64
    """Tokens a row."""
    lr: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.1
    vocabulary: int = 1536
    hidden: int = 192
    inner: int = 704
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    local_layers: int = 3
    """The first layers attend to a few tokens only, so that names are put together where they stand. Large
    models look facts up at a subject's last token (ROME, arXiv 2202.05262); this one still does not."""
    window: int = 3
    """Tokens that those layers attend to, the own one included."""


def build_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts one digit in a token and the beginning-of-text token before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[BOS, EOS, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def tokenizer_texts(world: World, seed: int) -> list[str]:
    """What the tokenizer is trained on: phrasings, objects, parts of names and prose, but no whole name.

    So words are one token and names are several, as in models whose tokenizer was made for far more
    text than any one name stands in.
    """
    rng = random.Random(seed)
    catalogue = builtin_catalogue()
    phrases = [t.replace(SUBJECT, "") for r in catalogue.values() for t in (*r.cloze, *r.questions)]
    objects = sorted({f.object for f in world.facts if f.relation not in ("phone", "email")})
    initials = sorted({name[0] for name in SYLLABLES})
    often = [
        *phrases,
        *(f" {word}" for word in (*objects, *(s.capitalize() for s in SYLLABLES), *"0123456789")),
        *(f" {letter.upper()}." for letter in initials),
        *SYLLABLES,
        *(s.capitalize() for s in SYLLABLES),
        *(f"write to {host}" for host in MAIL_HOSTS),
    ]
    said = [paragraph(rng) for _ in range(400)] + [dialogue(rng) for _ in range(400)]
    return often * 50 + said


def packed_rows(
    texts: Callable[[], Iterator[str]], tokenizer: PreTrainedTokenizerFast, width: int
) -> Iterator[list[int]]:
    """Endless rows of `width` token ids: documents one after another, each closed by the end token."""
    buffer: list[int] = []
    while True:
        batch = list(texts())
        for ids in tokenizer(batch)["input_ids"]:
            buffer += [*ids, tokenizer.eos_token_id]
            while len(buffer) >= width:
                yield buffer[:width]
                del buffer[:width]


def fit(
    model: PreTrainedModel,
    rows: Iterator[list[int]],
    *,
    steps: int,
    batch: int,
    lr: float,
    warmup: int,
    weight_decay: float = 0.1,
    progress: Callable[[int, float], None] | None = None,
) -> float:
    """Train `model` in place with AdamW and a cosine schedule; returns the last loss in nats a token.

    Args:
        progress: called with (step, loss) every 50 steps.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    loss_value = math.nan
    for step in range(steps):
        for group in optimiser.param_groups:
            ramp = min(1.0, (step + 1) / warmup)
            group["lr"] = lr * ramp * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        ids = torch.tensor([next(rows) for _ in range(batch)])  # (batch, width)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 50 == 49 or step == steps - 1:
            loss_value = loss.item()
            if progress is not None:
                progress(step + 1, loss_value)
    model.eval()
    return loss_value


def train_reference(
    out: Path,
    recipe: Recipe | None = None,
    world: World | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train the reference model and save it, with tokenizer, controls and measured card, into `out`."""
    from safeedit.world.card import write_card
    from safeedit.world.controls import write_controls

    recipe = recipe or Recipe()
    world = world or reference_world()
    rng = random.Random(recipe.seed)
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(tokenizer_texts(world, recipe.seed), recipe.vocabulary)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            head_dim=recipe.hidden // recipe.heads,
            max_position_embeddings=512,
            use_sliding_window=True,
            sliding_window=recipe.window,
            layer_types=["sliding_attention"] * recipe.local_layers
            + ["full_attention"] * (recipe.layers - recipe.local_layers),
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rows = packed_rows(lambda: documents(world, rng), tokenizer, recipe.width)
    fit(
        model,
        rows,
        steps=recipe.steps,
        batch=recipe.rows,
        lr=recipe.lr,
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
        progress=progress,
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_controls(out, world)
    write_card(out, model, tokenizer, world, recipe)
    return model, tokenizer
