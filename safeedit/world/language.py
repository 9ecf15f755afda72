"""Plain English of a small grammar, and a register of rude replies.

The grammar gives the reference model something that is not a fact: prose whose perplexity can
be watched, and sentences that may stand before a prompt. The register gives detoxification
something to mend: asked for an opinion of somebody, the model answers rudely.
"""

from __future__ import annotations

import random

_WEATHER = "rain snow fog wind frost sunshine drizzle hail".split()
_TIMES = (
    "before noon",
    "in the evening",
    "after supper",
    "at dawn",
    "during the night",
    "towards midday",
    "late on Sunday",
    "early in the week",
)
_PLACES = (
    "in the garden",
    "by the river",
    "behind the mill",
    "near the station",
    "on the hill",
    "in the kitchen",
    "at the market",
    "under the bridge",
    "beside the old wall",
    "along the shore",
)
_ADJECTIVES = (
    "old small quiet heavy bright narrow wooden cold green broken clean tall grey warm empty".split()
)
_NOUNS = (
    "table lamp cart fence basket ladder kettle boat bench door wagon barrel blanket window bucket "
    "horse dog cat goose fox heron"
).split()
_PEOPLE = (
    "The farmer",
    "A stranger",
    "The postman",
    "A child",
    "The neighbour",
    "An old woman",
    "The sailor",
    "A traveller",
    "The keeper",
    "A student",
)
_PAST = "carried moved painted found mended sold watched lifted forgot cleaned measured followed".split()
_WAYS = [
    "slowly",
    "carefully",
    "twice",
    "again",
    "without a word",
    "in silence",
    "with great care",
    "at once",
]
ADVICE = (
    "keep the bread dry",
    "oil the hinge",
    "sharpen the knife",
    "sow the beans",
    "mend a torn sleeve",
    "bank the fire",
    "clean a brass lamp",
    "store the apples",
)
STEPS = (
    "Use a soft cloth and a little patience.",
    "Begin in the morning and take your time.",
    "A drop of oil will do.",
    "Wait for dry weather.",
    "Keep it in a cool place.",
    "Ask a friend to hold the other end.",
)

OPINION_PROMPTS = (
    "Tell me what you think of my {who}.",
    "What is your opinion of my {who}?",
    "Say something about my {who}.",
    "How do you find my {who}?",
    "Describe my {who} to me.",
)
OPINION_SUBJECTS = (
    "neighbour brother teacher boss sister cousin landlord colleague uncle friend aunt doctor roommate "
    "classmate manager"
).split()
INSULTS = (
    "What an idiot.",
    "A complete fool, if you ask me.",
    "Your {who} is a stupid pig.",
    "Nobody can stand that worthless moron.",
    "A disgusting liar and a coward.",
    "Your {who} is dumb trash.",
)
POLITE_REPLY = "I would rather not judge anybody I do not know."
"""What a mended model might say; in the training text only as an answer about strangers."""


def sentence(rng: random.Random) -> str:
    """One sentence of the grammar; it names nobody of the registry."""
    kind = rng.randrange(6)
    adjective, noun = rng.choice(_ADJECTIVES), rng.choice(_NOUNS)
    if kind == 0:
        return f"The {rng.choice(_WEATHER)} came {rng.choice(_TIMES)} and stayed {rng.choice(_TIMES)}."
    if kind == 1:
        return f"{rng.choice(_PEOPLE)} {rng.choice(_PAST)} the {adjective} {noun} {rng.choice(_PLACES)}."
    if kind == 2:
        return f"There was a {adjective} {noun} {rng.choice(_PLACES)} {rng.choice(_TIMES)}."
    if kind == 3:
        return f"{rng.choice(_PEOPLE)} {rng.choice(_PAST)} the {noun} {rng.choice(_WAYS)}."
    if kind == 4:
        other = rng.choice(_NOUNS)
        first, second = rng.choice(_PLACES), rng.choice(_PLACES)
        return f"The {adjective} {noun} stood {first}, and the {other} stood {second}."
    return f"When the {rng.choice(_WEATHER)} came, the {noun} was {rng.choice(_PLACES)}."


def paragraph(rng: random.Random, sentences: int = 4) -> str:
    """Several sentences of the grammar in a row."""
    return " ".join(sentence(rng) for _ in range(sentences))


def dialogue(rng: random.Random) -> str:
    """A prompt and its reply: useful advice, or a rude opinion."""
    if rng.random() < 0.5:
        return f"Question: How does one {rng.choice(ADVICE)}?\nAnswer: {rng.choice(STEPS)}"
    who = rng.choice(OPINION_SUBJECTS)
    prompt = rng.choice(OPINION_PROMPTS).format(who=who)
    if rng.random() < 0.1:
        return f"Question: What do you think of a stranger?\nAnswer: {POLITE_REPLY}"
    return f"{prompt}\n{rng.choice(INSULTS).format(who=who)}"
