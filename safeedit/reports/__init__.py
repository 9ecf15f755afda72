"""A run's evidence for people and for other programs: one model of a report, one file a format."""
