"""Query, search, release, download and compare catalogs of explained features."""
