"""Where snapshots are stored, one file a layout."""
