"""Scores, events and alerts in a database, written off the hot path."""
