"""From face scores to verdicts. Pure: time comes from the record."""
