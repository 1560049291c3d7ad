"""A catalog in the browser: pages over a store or a release, served on this machine only or written as files."""
