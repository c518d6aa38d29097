"""Recorded videos and images through the same detector and ensemble as live streams."""
