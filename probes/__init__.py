"""The probe suite: one probe a file, its suites as YAML and its prompts as JSONL.

Installed as ``safeedit_probes``. The protocol that a probe follows, the statistics and the
gates live in ``safeedit.probes``.
"""

if __name__ == "probes":
    raise ImportError("this folder is installed as 'safeedit_probes'; import it by that name")
