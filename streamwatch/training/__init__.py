"""How the bundled weights were made, and how to make better ones."""
