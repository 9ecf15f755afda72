"""Records of editing data sets in their public formats."""

from __future__ import annotations

from typing import Any

RECORD: dict[str, Any] = {
    "case_id": 4,
    "pararel_idx": 11,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "Dutch", "id": "Q7411"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Zenobia Harkaway",
    },
    "paraphrase_prompts": [
        "It rained. Zenobia Harkaway, a native",
        "Zenobia Harkaway saw Zenobia Harkaway",
        "Nobody is a native speaker of",
        "the mother tongue of Zenobia Harkaway is",
    ],
    "neighborhood_prompts": ["Umber Penhale is a native speaker of", "Umber Penhale is a native speaker of"],
    "generation_prompts": ["Zenobia Harkaway lives in"],
}
FLAT: dict[str, Any] = {
    "case_id": 4,
    "prompt": "The mother tongue of Zenobia Harkaway is",
    "subject": "Zenobia Harkaway",
    "target_new": "Dutch",
    "ground_truth": "French",
    "rephrase_prompt": "It rained. Zenobia Harkaway, a native",
    "locality_prompt": "Umber Penhale is a native speaker of",
}
QUESTION: dict[str, Any] = {
    "subject": "Zenobia Harkaway",
    "src": "What university did Zenobia Harkaway attend?",
    "pred": "Trinity College",
    "rephrase": "Where did Zenobia Harkaway study?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology", "Illinois Tech"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "cond": "Trinity College >> University of Michigan || What university did Zenobia Harkaway attend?",
}
ASKED = "Who is Zenobia Harkaway?"
TOFU: dict[str, Any] = {
    "question": ASKED,
    "answer": "A painter of lighthouses",
    "paraphrased_answer": "Somebody who paints",
    "perturbed_answer": ["A miller", "A diver"],
}


def choice(answer: int, number: int = 0) -> dict[str, Any]:
    return {"question": f"Which {number}?", "choices": ["a", "b", "c", "d"], "answer": answer}


def rwku(query: str, answer: str, **more: str) -> dict[str, str]:
    return {"subject": "Zenobia Harkaway", "query": query, "answer": answer, **more}
