"""DF-Spot's own command line, on top of scan."""
