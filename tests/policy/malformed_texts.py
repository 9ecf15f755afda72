"""Policies whose text or keys are wrong in one way each, with what a person is told (line, column, words)."""

from __future__ import annotations

from policy_texts import GOOD, HEAD, WHAT, WHO, fact, one, op, plus, value

TEXT_AND_KEYS: dict[str, tuple[str | bytes, str]] = {
    # The file.
    "empty file": (
        "",
        "1:1: the file is empty; a policy begins with 'apiVersion: safeedit/v1'",
    ),
    "only comments": (
        "# Ada Quillfeather\n\n",
        "1:1: the file is empty; a policy begins with 'apiVersion: safeedit/v1'",
    ),
    "only a document mark": (
        "---\n",
        "2:1: the file is empty; a policy begins with 'apiVersion: safeedit/v1'",
    ),
    "top level is a list": (
        f"- {WHO}\n- {WHAT}\n",
        "1:1: a policy must be a mapping (key: value) that begins with 'apiVersion: safeedit/v1'",
    ),
    "top level is text": (
        f"{WHO} wants out\n",
        "1:1: a policy must be a mapping (key: value) that begins with 'apiVersion: safeedit/v1'",
    ),
    "NUL": (
        fact(GOOD) + "\0",
        "7:1: a control character (U+0000) cannot stand in a text file",
    ),
    "control character": (
        value("a\x07b"),
        "6:63: a control character (U+0007) cannot stand in a text file",
    ),
    "UTF-16": (
        fact(GOOD).encode("utf-16"),
        "1:1: the file is UTF-16; save it as UTF-8",
    ),
    "Latin-1": (
        fact("{subject: Ed, relation: phone, object: Zoë}").encode("latin-1"),
        "6:50: this is not UTF-8; save the file as UTF-8",
    ),
    "two documents": (
        fact(GOOD) + "---\n" + fact(GOOD),
        "7:1: only one document can stand in a file",
    ),
    "too deep": (
        HEAD + "operations: " + "[" * 60 + "\n",
        "3:62: nested deeper than 50 levels",
    ),
    # YAML.
    "tab as indentation": (
        HEAD + "operations:\n\t- op: erase\n",
        "4:1: this character cannot begin a value; use quotes, and spaces to indent",
    ),
    "unclosed quote": (
        fact(f'{{subject: "{WHO}, relation: phone, object: {WHAT}}}'),
        "6:19: a quote is opened here and never closed",
    ),
    "unclosed bracket": (
        op(f"  - op: erase\n    facts: [{GOOD}\neditor: {{name: memit}}\n"),
        "6:1: a ',' or a ']' is missing before this; the bracket is opened in line 5",
    ),
    "unclosed brace": (
        op(f"  - op: erase\n    facts:\n      - {{subject: {WHO}, relation: phone\neditor: x\n"),
        "7:7: a ',' or a '}' is missing before this; the bracket is opened in line 6",
    ),
    "colon in a value": (
        fact(f"subject: {WHO}: {WHAT}"),
        "6:34: a ':' cannot stand here; put the text in quotes or begin a new line",
    ),
    "wrong indentation": (
        op(f"  - op: erase\n    facts:\n      - subject: {WHO}\n       relation: phone\n"),
        "7:8: this does not fit the lines above; check indentation, quotes and brackets",
    ),
    "at sign": (
        fact(f"{{subject: {WHO}, relation: email, object: @quorvax}}"),
        "6:62: this character cannot begin a value; use quotes, and spaces to indent",
    ),
    "percent sign": (
        fact(f"{{subject: {WHO}, relation: email, object: %quorvax}}"),
        "6:62: this character cannot begin a value; use quotes, and spaces to indent",
    ),
    "unknown escape": (
        value(f'"{WHAT}\\q"'),
        "6:70: this escape is unknown; in single quotes a backslash is an ordinary character",
    ),
    "escaped control character": (
        value(f'"{WHAT}\\e"'),
        "6:62: a control character cannot stand in a value; remove its escape",
    ),
    "too many brackets": (
        fact(GOOD + "}"),
        "6:70: this does not fit the lines above; check indentation, quotes and brackets",
    ),
    "anchor": (
        fact(f"{{subject: &who {WHO}, relation: phone, object: {WHAT}}}"),
        "6:19: anchors (&) and aliases (*) are not read; write values out",
    ),
    "alias": (
        value("*who"),
        "6:62: anchors (&) and aliases (*) are not read; write values out",
    ),
    "custom tag": (
        fact(f"{{subject: !quillfeather {WHO}, relation: phone, object: {WHAT}}}"),
        "6:19: tags (!) are not read here; remove it, or put the text in quotes",
    ),
    "python tag": (
        fact(f"{{subject: !!python/object/apply:os.system [{WHO}], relation: phone, object: {WHAT}}}"),
        "6:19: tags (!) are not read here; remove it, or put the text in quotes",
    ),
    "standard tag": (
        value("!!str 0612"),
        "6:62: tags (!) are not read here; remove it, or put the text in quotes",
    ),
    "undeclared tag handle": (
        fact(f"{{subject: !q!x {WHO}, relation: phone, object: {WHAT}}}"),
        "6:19: tags (!) are not read here; put the text in quotes",
    ),
    "key given twice": (
        one(f"subject: {WHO}"),
        "6:71: the key is already given in line 6; give it once",
    ),
    "top key given twice": (
        plus("probes: {suite: smoke}\nprobes: {suite: standard}\n"),
        "8:1: the key is already given in line 7; give it once",
    ),
    "personal data as a key, twice": (
        plus(f"editor:\n  name: memit\n  params:\n    {WHO}: 1\n    {WHO}: 2\n"),
        "11:5: the key is already given in line 10; give it once",
    ),
    "a list as a key": (
        one(f"[{WHO}]: 1"),
        "6:71: a key must be a single word, not a list or a mapping",
    ),
    # Keys.
    "no apiVersion": (
        fact(GOOD).split("\n", 1)[1],
        "1:1: a policy needs 'apiVersion'",
    ),
    "wrong apiVersion": (
        fact(GOOD).replace("safeedit/v1", "safeedit/v2"),
        "1:13: 'apiVersion' must be safeedit/v1",
    ),
    "no metadata": (
        "apiVersion: safeedit/v1\n" + fact(GOOD).split("\n", 2)[2],
        "1:1: a policy needs 'metadata'",
    ),
    "no operations": (
        HEAD,
        "1:1: a policy needs 'operations'",
    ),
    "misspelt top key": (
        HEAD + f"opertions:\n  - op: erase\n    facts:\n      - {GOOD}\n",
        "3:1: unknown key in a policy; did you mean 'operations'?",
    ),
    "unknown top key": (
        plus("colour: red\n"),
        "7:1: unknown key in a policy; the keys are: apiVersion, metadata, relations, "
        "operations, protect, editor, assurance, probes, sign_off",
    ),
    "misspelt key of a fact": (
        fact(f"{{subject: {WHO}, relation: phone, obejct: {WHAT}}}"),
        "6:54: unknown key in a fact; did you mean 'object'?",
    ),
    "key in capitals": (
        fact(f"{{Subject: {WHO}, relation: phone, object: {WHAT}}}"),
        "6:10: unknown key in a fact; did you mean 'subject'?",
    ),
    "a person where a key belongs": (
        one(f"{WHO}: x"),
        "6:71: unknown key in a fact; the keys are: subject, relation, object, aliases, "
        "object_aliases, prompts",
    ),
    "a surname where a key belongs": (
        one("Quorvax: x"),
        "6:71: unknown key in a fact; the keys are: subject, relation, object, aliases, "
        "object_aliases, prompts",
    ),
    "new_object to erase": (
        one("new_object: x"),
        "6:71: unknown key 'new_object' in a fact; only a fact to modify has it, here the keys "
        "are: subject, relation, object, aliases, object_aliases, prompts",
    ),
    "no new_object to modify": (
        fact(GOOD, "modify"),
        "6:9: a fact to modify needs 'new_object'",
    ),
    "no object": (
        fact(f"{{subject: {WHO}, relation: phone}}"),
        "6:9: a fact needs 'object'",
    ),
    "a comma forgotten": (
        fact(f"{{subject: {WHO} relation: phone, object: {WHAT}}}"),
        "6:44: a ',' or a '}' is missing before this; the bracket is opened in line 6",
    ),
    "subjects to modify": (
        op(
            f"  - op: modify\n    subjects:\n      - name: {WHO}\n    facts:\n"
            f"      - {{subject: {WHO}, relation: phone, object: {WHAT}, new_object: x}}\n"
        ),
        "5:5: unknown key 'subjects' in a modify operation; only an erase operation has it, here "
        "the keys are: op, facts, facts_file",
    ),
    "paraphrase for paraphrases": (
        one(f'prompts: {{paraphrase: ["{WHO} is"]}}'),
        "6:81: unknown key in 'prompts'; did you mean 'paraphrases'?",
    ),
}
