"""Stage: windows of a feature in, one explanation out."""
