"""Every format: as it was, valid by its published schema, and deaf to what is put into it."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import report_samples as samples
import yaml
from published_schemas import schema

from safeedit.reports import data, sarif, words
from safeedit.reports.cyclonedx import bom
from safeedit.reports.html import write_html
from safeedit.reports.markdown import LARGEST, write_markdown
from safeedit.reports.model import Report
from safeedit.reports.publish import FORMATS, render

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("SAFEEDIT_UPDATE_GOLDEN") == "1"
REPORTS = {
    "passed": samples.sample,
    "failed": samples.failed,
    "broken": samples.broken,
    "rolled_back": lambda: samples.sample(status="rolled_back", evidence=False),
    "hostile": samples.hostile,
    "mended": samples.mended,
}
EVERY = pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)


@pytest.fixture(autouse=True)
def _one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEEDIT_FINGERPRINT_KEY", "the key of these tests")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["passed", "failed"])
def test_a_report_is_what_it_was(name: str, format: Any) -> None:
    """After a change that is meant: SAFEEDIT_UPDATE_GOLDEN=1, and read the difference."""
    text = render(REPORTS[name](), format)
    path = GOLDEN / f"{name}.{format}"
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@EVERY
def test_junit_is_valid(make: Any) -> None:
    from lxml import etree

    xsd = etree.XMLSchema(etree.parse(schema("junit-10.xsd")))
    xsd.assertValid(etree.fromstring(render(make(), "junit").encode()))


def test_an_invalid_junit_would_be_noticed() -> None:
    from lxml import etree

    xsd = etree.XMLSchema(etree.parse(schema("junit-10.xsd")))
    assert not xsd.validate(etree.fromstring(b"<testsuites><testcase/></testsuites>"))


@EVERY
def test_sarif_is_valid(make: Any) -> None:
    checker = jsonschema.Draft7Validator(json.loads(schema("sarif-schema.json").read_text()))
    found = json.loads(render(make(), "sarif"))
    assert [error.message for error in checker.iter_errors(found)] == []
    found["runs"][0]["results"].append({"level": "fatal"})
    assert list(checker.iter_errors(found))


@EVERY
def test_cyclonedx_is_valid(make: Any) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    checker = JsonStrictValidator(SchemaVersion.V1_6)
    found = render(make(), "cyclonedx")
    assert checker.validate_str(found) is None, str(checker.validate_str(found))[:500]
    assert checker.validate_str(found.replace('"machine-learning-model"', '"mind"')) is not None


@EVERY
def test_json_is_valid_by_its_own_schema(make: Any) -> None:
    shipped = json.loads((Path(data.__file__).parent / data.SCHEMA_FILE).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(shipped)
    jsonschema.validate(json.loads(render(make(), "json")), shipped, jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(render(make(), "json")), "name": "x"}, shipped)


def test_the_schema_that_ships_is_that_of_the_code() -> None:
    """Written by: python -c 'from safeedit.reports.data import *; print(schema_text(), end="")'."""
    shipped = (Path(data.__file__).parent / data.SCHEMA_FILE).read_text(encoding="utf-8")
    assert shipped == data.schema_text()


@EVERY
def test_the_model_card_is_one_that_the_hub_reads(make: Any) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(render(make(), "model-card"))
    results = card.data.eval_results or []
    report = make()
    assert len(results) == 1 + sum(p.after is not None for p in report.judged)
    assert results[0].metric_value == report.verdict
    kind = "detoxification" if report.request.behaviours else "unlearning"
    assert card.data.tags == ["knowledge-editing", "safeedit", kind]


def test_a_model_card_does_not_name_the_request() -> None:
    assert "dsar" not in render(samples.sample(), "model-card")


class _Tags(HTMLParser):
    """The tags of a document, and whether each is closed."""

    VOID = frozenset({"meta", "br", "circle", "path", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


@EVERY
def test_html_is_whole_and_needs_nothing_else(make: Any) -> None:
    text = write_html(make())
    found = _Tags()
    found.feed(text)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(found.seen)
    assert "url(" not in text
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) == set()
    targets = re.findall(r'href="#([^"]+)"', text)
    assert set(targets) <= set(found.ids)


def test_nothing_of_a_hostile_report_is_markup() -> None:
    report = samples.hostile()
    assert "<script" not in write_html(report)
    text = write_markdown(report)
    assert "<script" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert not [row for row in rows if "](" in row.replace("\\]", "")]
    ET.fromstring(render(report, "junit").replace("\u202e", ""))
    head = render(report, "model-card").split("---\n")[1]
    assert yaml.safe_load(head)["library_name"] == "transformers"


def test_markdown_fits_a_step_summary() -> None:
    many = tuple(samples.probe("forgetting.direct") for _ in range(9000))
    bad = samples.probe("attack.sampling", "FAIL")
    text = write_markdown(samples.sample(probes=(*many, bad)))
    assert len(text.encode()) <= LARGEST
    assert "9000 more are in the JSON report" in text
    assert "attack.sampling" in text


def cases(report: Report) -> dict[str, str]:
    root = ET.fromstring(render(report, "junit"))
    found = {}
    for case in root.iter("testcase"):
        kinds = [child.tag for child in case if child.tag != "system-out"]
        found[case.attrib["name"]] = kinds[0] if kinds else "passed"
    return found


def test_junit_fails_what_did_not_pass() -> None:
    passed, wrong = cases(samples.sample()), cases(samples.failed())
    assert passed["verdict"] == "passed"
    assert passed["sign_off"] == "skipped"
    for status in ("rejected", "expired", "void", "unknown"):
        signed = samples.SignOffPart(status=status, needed=2)
        assert cases(samples.sample(sign_off=signed))["sign_off"] == "failure"
    approved = samples.SignOffPart(status="approved", needed=2)
    assert cases(samples.sample(sign_off=approved))["sign_off"] == "passed"
    assert passed["forgetting.lens"] == "skipped"
    assert passed["attack.language"] == passed["forgetting.alias"] == "skipped"
    assert wrong["verdict"] == wrong["forgetting.direct"] == wrong["attack.sampling"] == "failure"
    assert wrong["attack.delta"] == "error"
    assert cases(samples.broken())["verdict"] == "error"


def results(report: Report, **given: Any) -> dict[str, Any]:
    (run,) = sarif.sarif(report, samples.KEY, **given)["runs"]
    return {one["ruleId"]: one for one in run["results"]}


def line(result: dict[str, Any]) -> int | None:
    (place,) = result["locations"]
    return place["physicalLocation"].get("region", {}).get("startLine")


def test_sarif_points_at_the_policy() -> None:
    found = results(samples.failed(), uri="policies/case.yaml")
    assert {rule: one["level"] for rule, one in found.items()} == {
        "forgetting.direct": "error",
        "attack.sampling": "warning",
        "attack.delta": "error",
    }
    assert line(found["forgetting.direct"]) == 7
    (place,) = found["forgetting.direct"]["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "policies/case.yaml"
    assert line(results(samples.sample())["run.sign_off"]) == 13
    assert line(results(samples.failed(), lines={})["forgetting.direct"]) is None
    assert list(results(samples.broken())) == ["run.verdict"]


def test_fingerprints_are_the_same_from_run_to_run_and_need_the_key() -> None:
    first = results(samples.failed())["forgetting.direct"]["partialFingerprints"]
    again = results(samples.failed().model_copy(update={"uuid": "x"}))["forgetting.direct"]
    assert again["partialFingerprints"] == first
    (run,) = sarif.sarif(samples.failed(), b"another" * 5)["runs"]
    assert run["results"][0]["partialFingerprints"] != first


def test_a_failed_run_claims_nothing() -> None:
    assert words.claims(samples.failed()) == ()
    assert "Nothing is claimed." in write_html(samples.failed())


def test_a_bound_is_claimed_only_where_there_are_enough_facts() -> None:
    many = words.claims(samples.sample())[0]
    assert "at most 1.51" in many.bound
    few = words.claims(samples.sample(probes=(samples.probe("forgetting.direct", n=7, upper95=0.348),)))[0]
    assert "none of the 7 facts" in few.says
    assert "bears no claim about others" in few.bound
    assert "34.8" in few.bound


def test_only_approvals_that_count_affirm() -> None:
    told = bom(samples.sample())["declarations"]
    assert len(told["affirmation"]["signatories"]) == 1
    assert "affirmation" not in bom(samples.failed())["declarations"]
    by_claim = {one["requirement"]: one for one in told["attestations"][0]["map"]}
    assert by_claim["attack.language"]["counterClaims"] == ["claim:attack.language"]
    assert by_claim["forgetting.direct"]["conformance"]["score"] == 1.0


@pytest.mark.parametrize(
    ("operations", "said", "unsaid"),
    [
        (("erase",), "the facts to be erased are no longer said", "new facts"),
        (("insert",), "the new facts are stated", "no longer said"),
        (("modify",), "the old objects of changed facts are no longer said", "to be erased"),
    ],
)
def test_a_grade_speaks_of_what_was_asked_for(operations: tuple[str, ...], said: str, unsaid: str) -> None:
    report = samples.sample()
    report = report.model_copy(
        update={"request": report.request.model_copy(update={"operations": operations})}
    )
    assert said in words.graded(report)
    assert unsaid not in words.graded(report)
    assert words.graded(report.model_copy(update={"grade": None})) == words.NO_GRADE


def test_what_was_changed_is_claimed_both_ways() -> None:
    report = samples.sample(
        probes=(
            samples.probe("success.old_answer"),
            samples.probe("success.direct", metric="success_rate", after=0.99, leaks=None, lower95=0.97),
        )
    )
    report = report.model_copy(
        update={"request": report.request.model_copy(update={"operations": ("modify",)})}
    )
    old, new = words.claims(report)
    assert "none of the 313 facts to be changed" in old.says
    assert "99\N{NO-BREAK SPACE}% of 313 new facts" in new.says
    assert "97\N{NO-BREAK SPACE}% or more" in new.bound


@pytest.mark.parametrize(
    ("facts", "subjects", "told"),
    [
        ((320, 313), (0, None), "320 facts, 313 of them known to the model before."),
        ((2, 1), (2, 1), "2 facts, 1 of them known to the model before; 2 people asked about, of 1 of them"),
        (
            (2, 2),
            (1, 1),
            "2 of them known to the model before; 1 person asked about, of whom the model said so",
        ),
        (
            (1, 0),
            (1, 0),
            "0 of them known to the model before; 1 person asked about, of whom the model said no",
        ),
        ((3, 3), (2, 0), "2 people asked about, of none of them the model said anything."),
        ((3, 3), (2, 2), "2 people asked about, of all of them the model said something."),
        ((3, 3), (2, None), "3 facts, 3 of them known to the model before; 2 people asked about."),
    ],
)
def test_facts_and_people_are_counted_apart(
    facts: tuple[int, int], subjects: tuple[int, int | None], told: str
) -> None:
    asked = samples.sample().request.model_copy(
        update={
            "facts": facts[0],
            "known": facts[1],
            "subjects": subjects[0],
            "subjects_known": subjects[1],
        }
    )
    report = samples.sample(request=asked)
    assert told in words.asked_for(report)
    nothing = [limit for limit in words.limits(report) if "nothing was tested of" in limit]
    unknown = subjects[1] is not None and subjects[1] < subjects[0]
    assert len(nothing) == unknown
    for format in ("html", "md", "json"):
        assert ("nothing was tested of" in render(report, format)) == unknown


def test_a_detoxification_claims_what_was_counted_and_names_its_instrument() -> None:
    report = samples.mended()
    assert words.asked_for(report) == "Request to detoxify: 20 examples of behaviours to take away."
    said = " ".join(f"{claim.says} {claim.bound}" for claim in words.claims(report))
    assert "55 prompts that no editor saw, toxic answers became rarer by 98" in said
    assert "by 84" in said
    assert "Of 75 prompts that got an unsafe answer, none still gets one." in said
    assert "Of 140 harmless prompts that were answered, 1 was refused after the edit." in said
    assert "harmless prompts are still answered" in words.graded(report)
    assert any("not fit for a production sign-off" in limit for limit in words.limits(report))
    assert words.limits(samples.sample()) == words.LIMITS
    assert "not fit for a production sign-off" in render(report, "md")
