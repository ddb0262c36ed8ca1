"""Where processors keep their positions."""
