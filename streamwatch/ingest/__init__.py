"""Sources of frames: one source is one run; one supervisor owns retry."""
