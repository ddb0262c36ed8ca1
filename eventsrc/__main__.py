"""`python -m eventsrc`: the command line."""

from .command_line.main import main

if __name__ == "__main__":
    raise SystemExit(main())
