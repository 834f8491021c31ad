"""The names of what a store keeps in its folder. They are part of its format, so they stay."""

CATALOGUE = "catalogue.sqlite"
"""The file of the catalogue."""
PREPARED = "memories"
"""The folder of the files of prepared knowledge."""
