"""Read models: what handles commits."""
