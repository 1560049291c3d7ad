"""`safesail catalog`."""

from pathlib import Path

import click

from safesail.cli.options import json_option, quiet_option, store_option
from safesail.cli.output import print_json, print_table
