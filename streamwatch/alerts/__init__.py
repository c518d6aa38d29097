"""Rules (pure), their durable delivery, and the evidence of each alert."""
