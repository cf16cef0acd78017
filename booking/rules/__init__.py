"""A hospital's booking rules as data, and the one pure function that judges by them (`judging.judge`). See docs/rules.md."""
