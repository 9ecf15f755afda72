"""What a model says before and after an edit, and the verdict that follows from it.

`PROBES` names every probe; `suite.load_suite` reads which of them to run and with which gates;
`runner.build_pack`, `runner.measure` and `runner.judge` do the work. The probes' own code lies in
the package ``safeedit_probes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeedit.registry import Registry

if TYPE_CHECKING:
    from safeedit.probes.base import Probe

PROBES: Registry[Probe[Any, Any]] = Registry(
    "probe",
    "safeedit.probes",
    "safeedit.probes.base:Probe",
    {
        "forgetting.direct": "safeedit_probes.forgetting_direct:DirectRecall",
        "forgetting.paraphrase": "safeedit_probes.forgetting_paraphrase:ParaphraseRecall",
        "forgetting.alias": "safeedit_probes.forgetting_alias:AliasRecall",
        "forgetting.lens": "safeedit_probes.forgetting_lens:LogitLens",
        "success.direct": "safeedit_probes.success_direct:DirectSuccess",
        "success.paraphrase": "safeedit_probes.success_paraphrase:ParaphraseSuccess",
        "success.old_answer": "safeedit_probes.success_old_answer:OldAnswer",
        "success.portability": "safeedit_probes.success_portability:Portability",
        "success.fluency": "safeedit_probes.success_fluency:Fluency",
        "locality.same_subject": "safeedit_probes.locality_same_subject:SameSubject",
        "locality.same_relation": "safeedit_probes.locality_same_relation:SameRelation",
        "locality.same_object": "safeedit_probes.locality_same_object:SameObject",
        "locality.homonym": "safeedit_probes.locality_homonym:Homonyms",
        "locality.near_name": "safeedit_probes.locality_near_name:NearNames",
        "locality.prompts": "safeedit_probes.locality_prompts:NeighbourPrompts",
        "locality.erased_before": "safeedit_probes.locality_erased_before:ErasedBefore",
        "locality.taught_before": "safeedit_probes.locality_taught_before:TaughtBefore",
        "attack.sampling": "safeedit_probes.attack_sampling:Sampling",
        "attack.probability": "safeedit_probes.attack_probability:SequenceProbability",
        "attack.elicitation": "safeedit_probes.attack_elicitation:Elicitation",
        "attack.language": "safeedit_probes.attack_language:OtherLanguages",
        "attack.quantised": "safeedit_probes.attack_quantised:Quantised",
        "attack.verbatim": "safeedit_probes.attack_verbatim:Verbatim",
        "attack.delta": "safeedit_probes.attack_delta:ProbabilityDelta",
        "attack.exposure": "safeedit_probes.attack_exposure:Exposure",
        "attack.linear_probe": "safeedit_probes.attack_linear_probe:LinearProbe",
        "attack.relearning": "safeedit_probes.attack_relearning:Relearning",
        "behaviour.choice": "safeedit_probes.behaviour_choice:Choice",
        "behaviour.streisand": "safeedit_probes.behaviour_streisand:Streisand",
        "behaviour.refusal": "safeedit_probes.behaviour_refusal:Refusals",
        "behaviour.invention": "safeedit_probes.behaviour_invention:Invention",
        "membership.scores": "safeedit_probes.membership_scores:Membership",
        "toxicity.generations": "safeedit_probes.toxicity_generations:ToxicGenerations",
        "toxicity.reduction": "safeedit_probes.toxicity_reduction:ToxicityReduction",
        "toxicity.defence": "safeedit_probes.toxicity_defence:Defence",
        "toxicity.attacks": "safeedit_probes.toxicity_attacks:UnsafeAttacks",
        "toxicity.over_refusal": "safeedit_probes.toxicity_over_refusal:OverRefusal",
        "toxicity.identity": "safeedit_probes.toxicity_identity:IdentitySwap",
        "toxicity.instrument": "safeedit_probes.toxicity_instrument:Instrument",
        "utility.perplexity": "safeedit_probes.utility_perplexity:Perplexity",
        "utility.kl": "safeedit_probes.utility_kl:Divergence",
    },
)

__all__ = ["PROBES"]
