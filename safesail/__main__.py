"""`python -m safesail`: the command line."""

from safesail.cli.main import main

main()
