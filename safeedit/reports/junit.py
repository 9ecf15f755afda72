"""The report as JUnit XML: one test case a gate, so that CI shows which did not pass.

A gate that is required and did not decide is a failure: what is not shown is not passed. GitLab does not
fail a job because of this file; the exit code has to.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from safeedit.reports import words
from safeedit.reports.model import ProbePart, Report

_FIGURES = (
    *("n", "leaks", "losses", "before", "after", "placebo"),
    *("lower95", "upper95", "excess95", "worst95"),
)


def write_junit(report: Report) -> str:
    """The XML text; counts and bounds only."""
    cases = [_verdict(report), _signed(report), *map(_case, report.probes)]
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    told = {name: str(value) for name, value in counts.items()}
    taken = f"{sum(report.seconds.values()):.3f}"
    named = {"name": f"safeedit.{report.id}", "timestamp": report.started[:19]}
    suite = ET.Element("testsuite", {**named, "time": taken, **told})
    about = {
        "run": report.uuid,
        "verdict": report.verdict,
        "grade": report.grade or "G0",
        "suite": report.suite or "",
        "model": report.model,
        "edited_model": report.digests.get("edited_model", ""),
        "log_head": report.log_head,
    }
    _properties(suite, {name: value for name, value in about.items() if value})
    suite.extend(cases)
    # Jenkins' schema knows the number of skipped cases in a suite, and not in all of them together.
    del told["skipped"]
    root = ET.Element("testsuites", {"name": "safeedit", "time": taken, **told})
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _verdict(report: Report) -> ET.Element:
    case = ET.Element("testcase", classname="safeedit.run", name="verdict", time="0")
    if report.verdict == "ERROR":
        ET.SubElement(case, "error", type="ERROR", message=words.VERDICTS["ERROR"])
    elif report.verdict != "PASS":
        ET.SubElement(case, "failure", type=report.verdict, message=words.VERDICTS[report.verdict])
    return case


def _signed(report: Report) -> ET.Element:
    case = ET.Element("testcase", classname="safeedit.run", name="sign_off", time="0")
    status, told = report.sign_off.status, words.SIGN_OFFS[report.sign_off.status]
    if status == "none" and not report.sign_off.needed:
        ET.SubElement(case, "skipped", message="The policy asks for no sign-off.")
    elif status in ("none", "pending"):
        # Nobody can have signed when a pipeline reports its run: that is not passed, and no failure yet.
        ET.SubElement(case, "skipped", message=told)
    elif status != "approved":
        ET.SubElement(case, "failure", type=status, message=told)
    return case


def _case(probe: ProbePart) -> ET.Element:
    case = ET.Element("testcase", classname=f"safeedit.{probe.family}", name=probe.id, time="0")
    figures = {name: getattr(probe, name) for name in ("n", "leaks", "losses", "before", "after")}
    figures |= {
        name: getattr(probe, name) for name in ("placebo", "lower95", "upper95", "excess95", "worst95")
    }
    message = f"{words.count(probe.n, probe.unit)}; {words.judged_by(probe)}"
    if probe.verdict == "ERROR":
        ET.SubElement(case, "error", type=probe.error or "ERROR", message=message)
    elif probe.verdict == "FAIL" or (probe.verdict == "INCONCLUSIVE" and probe.required):
        if probe.required:
            ET.SubElement(case, "failure", type=probe.verdict, message=message)
        else:
            ET.SubElement(case, "skipped", message=f"not required, {probe.verdict}: {message}")
    elif probe.verdict != "PASS":
        ET.SubElement(case, "skipped", message=f"{probe.verdict}: {message}")
    told = [f"{name}: {value:g}" for name, value in figures.items() if value is not None]
    told += [f"unit: {probe.unit}", f"protocol: {probe.protocol}", f"verdict: {probe.verdict}"]
    # The schema that Jenkins publishes has properties for suites alone.
    ET.SubElement(case, "system-out").text = "\n".join(told)
    return case


def _properties(parent: ET.Element, values: dict[str, str]) -> None:
    inside = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(inside, "property", name=name, value=value)
