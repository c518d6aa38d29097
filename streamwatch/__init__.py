"""StreamWatch: real-time deepfake monitoring of live video."""

__version__ = "0.1.0"
