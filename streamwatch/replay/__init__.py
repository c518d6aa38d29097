"""What rules would have done on recorded scores, so that thresholds are set on data."""
