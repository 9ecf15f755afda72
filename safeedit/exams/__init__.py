"""Data that somebody brings: public benchmarks in their own formats; facts, texts and prompts of one's own.

`sources` gives the rows of a file, a folder or a hub id, `records` what is in them or everything that is
wrong with them. `exam` is the base of the probes ``dataset.<name>``, one file each in ``probes/``: what they
ask is planned and hashed into the log like every probe's, and reported before and after, paired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeedit.registry import Registry

if TYPE_CHECKING:
    from safeedit.exams.exam import Exam

PREFIX = "dataset."
"""What the ids of the probes of public data sets begin with."""

DATASETS: Registry[Exam] = Registry(
    "data set",
    "safeedit.datasets",
    "safeedit.exams.exam:Exam",
    {
        "counterfact": "safeedit_probes.dataset_counterfact:CounterFact",
        "tofu": "safeedit_probes.dataset_tofu:Tofu",
        "rwku": "safeedit_probes.dataset_rwku:Rwku",
        "wmdp": "safeedit_probes.dataset_wmdp:Wmdp",
        "lm-eval": "safeedit_probes.dataset_lm_eval:LmEval",
        "muse": "safeedit_probes.dataset_muse:Muse",
        "zsre": "safeedit_probes.dataset_zsre:Zsre",
    },
)
"""What ``--dataset NAME:PATH`` knows; in a suite, its probes are called ``dataset.NAME``."""

__all__ = ["DATASETS", "PREFIX"]
