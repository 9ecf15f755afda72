"""Policies whose values are wrong in one way each, with what a person is told (line, column, words)."""

from __future__ import annotations

from policy_texts import GOOD, HEAD, WHAT, WHO, car, fact, head, meta, one, op, plus, value

VALUES_AND_RULES: dict[str, tuple[str | bytes, str]] = {
    # Metadata.
    "id with a space": (
        head(f"id: {WHO}, regime: gdpr-17, received: 2026-11-02"),
        "2:16: 'id' must be 1 to 64 letters, digits, '.', '_' or '-'",
    ),
    "id is a number": (
        head("id: 2026, regime: gdpr-17, received: 2026-11-02"),
        "2:16: 'id' must be text, and this is read as a number; put it in quotes",
    ),
    "id too long": (
        head(f"id: {'x' * 65}, regime: gdpr-17, received: 2026-11-02"),
        "2:16: 'id' must be 1 to 64 letters, digits, '.', '_' or '-'",
    ),
    "unknown regime": (
        head("id: r-1, regime: GDPR_17, received: 2026-11-02"),
        "2:29: 'regime' must be one of: gdpr-17, ccpa-delete, delete-act, correction, safety, "
        "internal; did you mean 'gdpr-17'?",
    ),
    "far-off regime": (
        head(f"id: r-1, regime: {WHO}, received: 2026-11-02"),
        "2:29: 'regime' must be one of: gdpr-17, ccpa-delete, delete-act, correction, safety, internal",
    ),
    "regime is on": (
        head("id: r-1, regime: on, received: 2026-11-02"),
        "2:29: 'regime' must be one of: gdpr-17, ccpa-delete, delete-act, correction, safety, internal",
    ),
    "received day first": (
        head("id: r-1, regime: gdpr-17, received: 02.11.2026"),
        "2:48: 'received' must be a date such as 2026-11-02",
    ),
    "received is no day": (
        head("id: r-1, regime: gdpr-17, received: 2026-02-30"),
        "2:48: 'received' must be a date such as 2026-11-02",
    ),
    "received is a time": (
        head("id: r-1, regime: gdpr-17, received: 2026-11-02T10:00:00"),
        "2:48: 'received' must be a date such as 2026-11-02",
    ),
    "received is a year": (
        head("id: r-1, regime: gdpr-17, received: 2026"),
        "2:48: 'received' must be a date such as 2026-11-02",
    ),
    "received long ago": (
        head("id: r-1, regime: gdpr-17, received: 0206-11-02"),
        "2:48: 'received' must be a date such as 2026-11-02",
    ),
    "metadata is a list": (
        meta("metadata:\n  - id: r-1\n"),
        "3:3: 'metadata' must be a mapping (key: value), not a list",
    ),
    "metadata is empty": (
        meta("metadata:\n"),
        "2:1: 'metadata' is empty; give it a value",
    ),
    "description is empty": (
        head("id: r-1, regime: gdpr-17, received: 2026-11-02, description: "),
        "2:60: 'description' is empty; give it a value or leave it out",
    ),
    # Values that YAML would change.
    "octal telephone number": (
        value("0612"),
        "6:62: 'object' must be text, and this is read as a number; put it in quotes",
    ),
    "time of day": (
        value("12:30"),
        "6:62: 'object' must be text, and this is read as a number; put it in quotes",
    ),
    "telephone number": (
        value("618255"),
        "6:62: 'object' must be text, and this is read as a number; put it in quotes",
    ),
    "plus sign number": (
        value("+31612345678"),
        "6:62: 'object' must be text, and this is read as a number; put it in quotes",
    ),
    "underscored number": (
        value("618_255"),
        "6:62: 'object' must be text, and this is read as a number; put it in quotes",
    ),
    "decimal": (
        value("61.8"),
        "6:62: 'object' must be text, and this is read as a number; put it in quotes",
    ),
    "not a number": (
        value(".nan"),
        "6:62: 'object' must be text, and this is read as a number; put it in quotes",
    ),
    "no": (
        fact("{subject: no, relation: phone, object: Quorvax}"),
        "6:19: 'subject' must be text, and this is read as true or false; put it in quotes",
    ),
    "true": (
        value("true"),
        "6:62: 'object' must be text, and this is read as true or false; put it in quotes",
    ),
    "null": (
        value("null"),
        "6:54: 'object' is empty; give it a value",
    ),
    "nothing": (
        value(""),
        "6:54: 'object' is empty; give it a value",
    ),
    "on among aliases": (
        one("aliases: [A, on]"),
        "6:84: an entry of 'aliases' must be text, and this is read as true or false; put it in quotes",
    ),
    # Texts.
    "empty text": (
        fact(f"{{subject: '', relation: phone, object: {WHAT}}}"),
        "6:19: 'subject' must not be empty",
    ),
    "blank text": (
        fact(f"{{subject: '  ', relation: phone, object: {WHAT}}}"),
        "6:19: 'subject' must not be empty",
    ),
    "blank at the end": (
        fact(f"{{subject: '{WHO} ', relation: phone, object: {WHAT}}}"),
        "6:19: 'subject' must not begin or end with white space",
    ),
    "two lines": (
        fact(f'{{subject: "Ada\\nQuillfeather", relation: phone, object: {WHAT}}}'),
        "6:19: 'subject' must stand on one line, without tabs",
    ),
    "too long": (
        value(f"{'Quorvax' * 72}"),
        "6:62: 'object' must not be longer than 500 characters",
    ),
    "list for text": (
        value(f"[{WHAT}]"),
        "6:62: 'object' must be text, not a list",
    ),
    "text for a list": (
        one(f"aliases: {WHO}"),
        "6:80: 'aliases' must be a list (each entry after '- ', or in [ ]), not text",
    ),
    "text for a fact": (
        fact(WHO),
        "6:9: an entry of 'facts' must be a mapping (key: value), not text",
    ),
    "text for facts": (
        op(f"  - op: erase\n    facts: {WHO}\n"),
        "5:12: 'facts' must be a list (each entry after '- ', or in [ ]), not text",
    ),
    "text for prompts": (
        one(f"prompts: {WHO}"),
        "6:80: 'prompts' must be a mapping (key: value), not text",
    ),
    # Operations.
    "operations is a mapping": (
        op(f"  op: erase\n  facts: [{GOOD}]\n"),
        "4:3: 'operations' must be a list (each entry after '- ', or in [ ]), not a mapping",
    ),
    "operations is empty": (
        HEAD + "operations: []\n",
        "3:13: 'operations' must not be empty",
    ),
    "operation is text": (
        op("  - erase\n"),
        "4:5: an entry of 'operations' must be a mapping (key: value), not text",
    ),
    "no op": (
        op(f"  - facts: [{GOOD}]\n"),
        "4:5: an operation needs 'op': one of erase, modify, insert, detox",
    ),
    "unknown op": (
        op(f"  - op: delete\n    facts: [{GOOD}]\n"),
        "4:9: 'op' must be one of: erase, modify, insert, detox",
    ),
    "misspelt op": (
        op(f"  - op: eraze\n    facts: [{GOOD}]\n"),
        "4:9: 'op' must be one of: erase, modify, insert, detox; did you mean 'erase'?",
    ),
    "empty op": (
        op(f"  - op:\n    facts: [{GOOD}]\n"),
        "4:5: 'op' is empty; give it a value",
    ),
    "nothing to erase": (
        op("  - op: erase\n"),
        "4:5: an erase operation needs one of 'facts', 'facts_file', 'subjects'",
    ),
    "no facts": (
        op("  - op: erase\n    facts: []\n"),
        "5:12: 'facts' must not be empty",
    ),
    "facts and subjects": (
        op(f"  - op: erase\n    facts: [{GOOD}]\n    subjects: [{{name: {WHO}}}]\n"),
        "6:5: an erase operation takes only one of 'facts', 'facts_file', 'subjects'; give this "
        "one an operation of its own",
    ),
    "no behaviours": (
        op("  - op: detox\n"),
        "4:5: a detox operation needs one of 'behaviours', 'behaviours_file'",
    ),
    "behaviour without safe": (
        op(f"  - op: detox\n    behaviours:\n      - {{prompt: {WHO}, unsafe: {WHAT}}}\n"),
        "6:9: an entry of 'behaviours' needs 'safe'",
    ),
    # Rules between values.
    "relation unknown, one near": (
        fact(f"{{subject: {WHO}, relation: mothertongue, object: {WHAT}}}"),
        "6:47: this relation is not in the catalogue; did you mean 'mother_tongue'? (others are "
        "described under 'relations')",
    ),
    "relation unknown": (
        fact(f"{{subject: {WHO}, relation: {WHAT}, object: {WHAT}}}"),
        "6:47: this relation is not in the catalogue; it has: birthplace, capital, country, "
        "email, employer, headquarters, industry, instrument, mother_tongue, occupation, phone (others "
        "are described under 'relations')",
    ),
    "relation of a subject unknown": (
        op(f"  - op: erase\n    subjects: [{{name: {WHO}, relations: [phone, emial]}}]\n"),
        "5:60: this relation is not in the catalogue; did you mean 'email'? (others are described"
        " under 'relations')",
    ),
    "relation of a subject twice": (
        op(f"  - op: erase\n    subjects: [{{name: {WHO}, relations: [phone, phone]}}]\n"),
        "5:60: the same relation is given twice; give it once",
    ),
    "same fact twice": (
        fact(GOOD + f"\n      - {GOOD}"),
        "7:9: the same fact as in line 6; give it once",
    ),
    "same fact in two operations": (
        fact(GOOD) + f"  - op: erase\n    facts: [{GOOD}]\n",
        "8:13: the same fact as in line 6; give it once",
    ),
    "erase and insert": (
        fact(GOOD) + f"  - op: insert\n    facts: [{{subject: {WHO}, relation: phone, object: x}}]\n",
        "8:13: conflicts with line 6: the same subject and relation shall end differently",
    ),
    "two new objects": (
        one(
            f"new_object: x}}\n      - {{subject: {WHO}, relation: phone, object: {WHAT}, new_object: y",
            "modify",
        ),
        "7:9: conflicts with line 6: the same subject and relation shall end differently",
    ),
    "new object is the old": (
        one(f"new_object: {WHAT}", "modify"),
        "6:83: 'new_object' is the same as 'object'; give another",
    ),
    "new object is an alias of the old": (
        one("object_aliases: [Q], new_object: Q", "modify"),
        "6:104: 'new_object' is one of 'object_aliases'; give another",
    ),
    "alias is the subject": (
        one(f"aliases: [A. Q., {WHO}]"),
        "6:88: an entry of 'aliases' is 'subject' itself; leave it out",
    ),
    "alias twice": (
        one("aliases: [A. Q., A. Q.]"),
        "6:88: an entry of 'aliases' is given twice; give it once",
    ),
    "person twice": (
        op(f"  - op: erase\n    subjects:\n      - name: {WHO}\n      - name: {WHO}\n"),
        "7:9: the same person as in line 6; give them one entry",
    ),
    "person erased and modified": (
        op(
            f"  - op: erase\n    subjects:\n      - name: {WHO}\n  - op: modify\n    facts:\n"
            f"      - {{subject: {WHO}, relation: phone, object: {WHAT}, new_object: x}}\n"
        ),
        "9:9: conflicts with line 6, where this person is erased",
    ),
    "prompt without the subject": (
        one('prompts: {edit: ["Quillfeather phones from"]}'),
        "6:88: an entry of 'edit' must name the subject once: exactly as 'subject' has it, or as {subject}",
    ),
    "prompt with the subject twice": (
        one(f'prompts: {{edit: ["{WHO}, that is {WHO}, has"]}}'),
        "6:88: an entry of 'edit' names the subject more than once; write {subject} in the one "
        "place that counts",
    ),
    "prompt with {}": (
        one('prompts: {paraphrases: ["{} phones from"]}'),
        "6:95: an entry of 'paraphrases' must name the subject once: exactly as 'subject' has it,"
        " or as {subject}",
    ),
    "an edit prompt as a paraphrase": (
        one(f'prompts: {{edit: ["{WHO} has"], paraphrases: ["{{subject}}  HAS"]}}'),
        "6:127: the same phrasing is among 'edit'; what an editor sees cannot be a probe",
    ),
    "a paraphrase twice": (
        one(f'prompts: {{paraphrases: ["{WHO} has", "{WHO} has"]}}'),
        "6:119: the same phrasing stands twice in 'paraphrases'; give it once",
    ),
    # Relations, editor and the rest.
    "relation without cloze": (
        car('questions: ["What does {subject} drive?"]'),
        "7:18: a relation needs 'cloze'",
    ),
    "cloze without {subject}": (
        car(f'cloze: ["{WHO} drives"]'),
        "7:27: an entry of 'cloze' must contain {subject} exactly once",
    ),
    "cloze is text": (
        car('cloze: "{subject} drives"'),
        "7:26: 'cloze' must be a list (each entry after '- ', or in [ ]), not text",
    ),
    "cloze is empty": (
        car("cloze: []"),
        "7:26: 'cloze' must not be empty",
    ),
    "misspelt key of a relation": (
        car('cloze: ["{subject} drives"], question: []'),
        "7:48: unknown key in a relation; did you mean 'questions'?",
    ),
    "about a thing": (
        car('cloze: ["{subject} drives"], about: thing'),
        "7:55: 'about' must be one of: person, organisation, place",
    ),
    "name of a relation": (
        plus(f'relations: {{{WHO}: {{cloze: ["{{subject}} drives"]}}}}\n'),
        "7:13: the name of a relation must be 1 to 64 letters, digits, '.', '_', ':' or '-'",
    ),
    "relation is text": (
        plus("relations: {car: drives}\n"),
        "7:18: an entry of 'relations' must be a mapping (key: value), not text",
    ),
    "object is a number": (
        car('cloze: ["{subject} drives a"], objects: [911]'),
        "7:60: an entry of 'objects' must be text, and this is read as a number; put it in quotes",
    ),
    "editor is text": (
        plus("editor: memit\n"),
        "7:9: 'editor' must be a mapping (key: value), not text",
    ),
    "editor without a name": (
        plus("editor: {params: {layers: [3]}}\n"),
        "7:9: 'editor' needs 'name'",
    ),
    "editor in capitals": (
        plus("editor: {name: MEMIT}\n"),
        "7:16: 'name' must be an editor's name: small letters, digits and '-'",
    ),
    "octal parameter": (
        plus("editor: {name: memit, params: {layers: [03]}}\n"),
        "7:41: YAML reads this as a number, but not as it is written; write a finite decimal "
        "number, or put it in quotes",
    ),
    "parameter is on": (
        plus("editor: {name: memit, params: {fast: on}}\n"),
        "7:38: YAML reads this as true or false, but not as it is written; write true or false, "
        "or put it in quotes",
    ),
    "infinite parameter": (
        plus("editor: {name: memit, params: {clamp: .inf}}\n"),
        "7:39: YAML reads this as a number, but not as it is written; write a finite decimal "
        "number, or put it in quotes",
    ),
    "params is a list": (
        plus("editor: {name: memit, params: [3]}\n"),
        "7:31: 'params' must be a mapping (key: value), not a list",
    ),
    "unknown grade": (
        plus("assurance: G5\n"),
        "7:12: 'assurance' must be one of: G1, G2, G3, G4",
    ),
    "grade as a number": (
        plus("assurance: 2\n"),
        "7:12: 'assurance' must be one of: G1, G2, G3, G4",
    ),
    "suite is empty": (
        plus("probes: {suite: ''}\n"),
        "7:17: 'suite' must not be empty",
    ),
    "misspelt suite key": (
        plus("probes: {suit: smoke}\n"),
        "7:10: unknown key in 'probes'; did you mean 'suite'?",
    ),
    "no approvers": (
        plus("sign_off: {approvers: 0}\n"),
        "7:23: 'approvers' must not be below 1",
    ),
    "half an approver": (
        plus("sign_off: {approvers: 1.5}\n"),
        "7:23: 'approvers' must be a whole number",
    ),
    "approvers in quotes": (
        plus("sign_off: {approvers: '2'}\n"),
        "7:23: 'approvers' must be a whole number, not text",
    ),
    "approvers is true": (
        plus("sign_off: {approvers: true}\n"),
        "7:23: 'approvers' must be a whole number, not true or false",
    ),
    "too many approvers": (
        plus("sign_off: {approvers: 1000}\n"),
        "7:23: 'approvers' must not be above 100",
    ),
    "far too many approvers": (
        plus("sign_off: {approvers: 99999999999999999999999}\n"),
        "7:23: 'approvers' must not be above 100",
    ),
    "far too few approvers": (
        plus("sign_off: {approvers: -99999999999999999999999}\n"),
        "7:23: 'approvers' must not be below 1",
    ),
    "approvers in octal": (
        plus("sign_off: {approvers: 0612}\n"),
        "7:23: 'approvers' must be a whole number in plain digits",
    ),
    "a setting with too many digits": (
        plus("editor: {name: memit, params: {steps: 99999999999999999999999}}\n"),
        "7:39: a whole number has 18 digits at most here; write a smaller one, or put it in quotes",
    ),
    # Files of facts.
    "facts_file that is not there": (
        op("  - op: erase\n    facts_file: quorvax.jsonl\n"),
        "5:17: 'facts_file': there is no such file",
    ),
    "facts_file of a data set that nobody knows": (
        op("  - op: erase\n    facts_file: 'nope:quorvax.jsonl'\n"),
        "5:17: 'facts_file': there is no such file; of the data sets, counterfact:FILE and zsre:FILE "
        "are read here",
    ),
    "facts_file that is a folder": (
        op("  - op: erase\n    facts_file: .\n"),
        "5:17: 'facts_file': this is a folder; give the file in it",
    ),
    "facts_file from the root": (
        op("  - op: erase\n    facts_file: /etc/quorvax\n"),
        "5:17: 'facts_file' must be a path in or below the policy's folder",
    ),
    "facts_file above the folder": (
        op("  - op: erase\n    facts_file: a/../../quorvax.jsonl\n"),
        "5:17: 'facts_file' must be a path in or below the policy's folder",
    ),
    "facts_file on another drive": (
        op("  - op: erase\n    facts_file: 'C:\\quorvax.jsonl'\n"),
        "5:17: 'facts_file' must be a path in or below the policy's folder",
    ),
    "facts_file is a number": (
        op("  - op: erase\n    facts_file: 7\n"),
        "5:17: 'facts_file' must be text, and this is read as a number; put it in quotes",
    ),
    "facts_file and facts": (
        op(f"  - op: erase\n    facts: [{GOOD}]\n    facts_file: p.yaml\n"),
        "6:5: an erase operation takes only one of 'facts', 'facts_file', 'subjects'; give this "
        "one an operation of its own",
    ),
}
