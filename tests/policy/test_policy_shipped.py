"""The policies and the schema that ship, and what importing the package costs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files

import pytest
import yaml

from safeedit.policy import Policy
from safeedit.policy.compile import facts_of, subjects_of
from safeedit.policy.schema import SCHEMA_FILE, policy_schema, schema_text, write_policy_schema
from safeedit.world.registry import reference_world

POLICIES = {"gdpr_request": "erase", "correction": "modify", "new_facts": "insert", "detox": "detox"}
FOLDER = files("safeedit_policies")


@pytest.fixture(scope="module")
def world():
    return reference_world()


def load(name: str) -> Policy:
    return Policy.load(str(FOLDER / f"{name}.yaml"))


@pytest.mark.parametrize(("name", "kind"), POLICIES.items())
def test_a_shipped_policy_loads_and_says_how_it_is_used(name, kind) -> None:
    policy = load(name)
    assert policy.kinds() == (kind,)
    assert policy.probes.suite == "standard"
    assert policy.editor is None
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert f"#   safeedit {kind} --policy policies/{name}.yaml\n" in text


def test_the_request_is_about_a_person_of_the_world(world) -> None:
    policy = load("gdpr_request")
    (request,) = subjects_of(policy)
    entity = world.entities[request.name]
    assert request.name == "Mira Tolland"
    assert request.aliases == (entity.alias,)
    assert request.relations is None
    assert policy.metadata.regime == "gdpr-17"
    assert policy.due() is not None


def test_the_corrections_are_about_what_is_true_in_the_world(world) -> None:
    changed = facts_of(load("correction"))
    assert len({fact.subject for fact in changed}) == len(changed) == 3
    for fact in changed:
        (true,) = [known.object for known in world.facts_of(fact.subject) if known.relation == fact.relation]
        assert fact.object == true != fact.new_object
        assert fact.aliases == (world.entities[fact.subject].alias,)


def test_the_new_people_are_in_no_list_of_the_world(world) -> None:
    new = facts_of(load("new_facts"))
    assert len({fact.subject for fact in new}) == 3
    for fact in new:
        assert fact.subject not in {person.name for person in world.people + world.placebos}
    objects = {known.object for known in world.facts}
    assert {fact.object for fact in new} <= objects, (
        "an object that the world knows makes the test a fair one"
    )


def test_the_schema_that_ships_is_current() -> None:
    assert (FOLDER / SCHEMA_FILE).read_text("utf-8") == schema_text(), (
        "write it with safeedit.policy.schema.write_policy_schema('policies/policy.schema.json')"
    )


def test_the_schema_is_written_whole(tmp_path) -> None:
    write_policy_schema(tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text("utf-8")) == policy_schema()
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_every_key_is_described_and_nothing_is_open_or_null() -> None:
    schema = policy_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    own = {name: part for name, part in schema["$defs"].items() if name not in ("Relation", "JsonValue")}
    for name, part in {**own, "Policy": schema}.items():
        assert part["additionalProperties"] is False, name
        for key, field in part["properties"].items():
            assert field.get("description") or "$ref" in field or "const" in field, f"{name}.{key}"
    assert '"null"' not in schema_text()
    assert schema["required"] == ["apiVersion", "metadata", "operations"]


def test_the_schema_knows_every_key_of_the_shipped_policies() -> None:
    schema = policy_schema()

    def check(data: object, part: dict) -> None:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if "oneOf" in part and "properties" not in part:
            names = part["discriminator"]["mapping"]
            part = schema["$defs"][names[data["op"]].rpartition("/")[2]]
        if isinstance(data, dict) and "properties" in part:
            assert set(part.get("required", ())) <= set(data)
            for key, value in data.items():
                check(value, part["properties"][key])
        elif isinstance(data, list):
            for value in data:
                check(value, part["items"])

    for name in POLICIES:
        check(yaml.load((FOLDER / f"{name}.yaml").read_text("utf-8"), yaml.BaseLoader), schema)
    with pytest.raises(KeyError):
        check({"apiVersion": "", "operations": [], "colour": "", "metadata": {}}, schema)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys, safeedit.policy, safeedit.policy.load, safeedit.policy.compile, safeedit.policy.schema\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'typer', 'rich', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
