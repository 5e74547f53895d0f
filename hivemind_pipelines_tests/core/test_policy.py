"""The policy: refused with path and reason, fingerprinted by section, the same after a round trip."""

import json
from typing import Any

import pytest
import yaml

from hivemind_pipelines.core.policy import SECTION_GROUPS, DistillationPolicy, PolicyError


@pytest.mark.parametrize(
    ("document", "path", "reason"),
    [
        ({"matchng": {}}, "matchng", "unknown key"),
        ({"matching": {"duplicate_minimum": 0.9}}, "matching.duplicate_minimum", "unknown key"),
        ({"matching": {"duplicate_min": 7}}, "matching.duplicate_min", "less than or equal to 1"),
        ({"matching": {"duplicate_min": "0.9"}}, "matching.duplicate_min", "valid number"),
        ({"matching": {"duplicate_min": True}}, "matching.duplicate_min", "valid number"),
        ({"matching": {"duplicate_min": float("nan")}}, "matching.duplicate_min", "finite"),
        ({"matching": {"max_candidates": 2.5}}, "matching.max_candidates", "valid integer"),
        ({"matching": {"llm_confirm": "yes"}}, "matching.llm_confirm", "valid boolean"),
        ({"matching": None}, "matching", "dictionary"),
        ({"matching": {"possible_min": 0.9, "duplicate_min": 0.5}}, "matching", "possible_min"),
        ({"topics": {"size_min": 9, "size_max": 4}}, "topics", "size_min"),
        ({"summary": {"method": "guess"}}, "summary.method", "'llm' or 'extractive'"),
        ({"quality": {"usefulness_weight": 0.9}}, "quality", "sum to 1.35, more than 1"),
        ({"quality": {"half_life_days": 0}}, "quality.half_life_days", "greater than 0"),
        ({"safety": {"llm_usd_per_day_max": -1}}, "safety.llm_usd_per_day_max", "greater than or equal to 0"),
        ({"safety": {"llm_lease": 30}}, "safety", "llm_lease must cover two calls"),
        ({"gate": {"volume_threshold": 0}}, "gate.volume_threshold", "greater than or equal to 1"),
        ({"gate": {"min_interval": "soon"}}, "gate.min_interval", "timedelta"),
        ({"orgs": {"acme": {"matching": {}}}}, "orgs.acme.matching", "gate and safety alone"),
        ({"orgs": {"acme": {"gate": {"volume": 1}}}}, "orgs.acme.gate.volume", "unknown key"),
        ([], "policy", "dictionary"),
    ],
)
def test_what_is_absurd_is_refused_with_its_path_and_the_reason(
    document: Any, path: str, reason: str
) -> None:
    with pytest.raises(PolicyError) as refused:
        DistillationPolicy.parse(document)
    said = str(refused.value)
    assert said.startswith(f"{path}: ")
    assert reason in said


def test_every_refused_path_is_named() -> None:
    with pytest.raises(PolicyError, match=r"gate\.volume_threshold: .*; pii\.nonsense: unknown key"):
        DistillationPolicy.parse({"gate": {"volume_threshold": -1}, "pii": {"nonsense": 1}})


def test_a_policy_survives_yaml_and_json() -> None:
    policy = DistillationPolicy.parse({"gate": {"min_interval": 90}, "orgs": {"acme": {"safety": {}}}})
    document = policy.model_dump(mode="json")
    assert DistillationPolicy.parse(yaml.safe_load(yaml.safe_dump(document))) == policy
    assert DistillationPolicy.parse(json.loads(json.dumps(document))).version == policy.version


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"matching": {"duplicate_min": 0.9}}, {"matching"}),
        ({"contradiction": {"cosine_min": 0.5}}, {"contradiction"}),
        ({"topics": {"distance_max": 0.4}}, {"summary"}),
        ({"summary": {"prompt_version": "summary-2"}}, {"summary"}),
        ({"pii": {"score_threshold": 0.6}}, {"pii"}),
        ({"quality": {"half_life_days": 30}}, {"quality"}),
        ({"prescreen": {"low_quality_below": 0.3}}, {"quality"}),
        ({"gate": {"volume_threshold": 9}, "safety": {"llm_usd_per_day_max": 1}}, set()),
    ],
)
def test_a_section_moves_its_own_fingerprint_alone(change: Any, moved: set[str]) -> None:
    before, after = DistillationPolicy().stamps(), DistillationPolicy.parse(change).stamps()
    assert {group for group in SECTION_GROUPS if before[group] != after[group]} == moved
    assert DistillationPolicy.parse(change).version != DistillationPolicy().version
