"""What a run can be held to later: keys, signed statements, decisions, one log over all runs."""
