"""Load, fold, save, execute."""
