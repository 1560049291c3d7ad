"""Ways of scoring, and which one is meant where none is named."""

from typing import Literal, get_args

Method = Literal["pooled", "segment", "token", "detection", "fuzzing"]
"""`pooled` asks about explanations of several features at once, `segment` about one; `token` asks for every token;
`detection` and `fuzzing` are Delphi's."""

METHODS: tuple[Method, ...] = get_args(Method)

DEFAULT_METHOD: Method = "pooled"
"""THE default, of settings and of commands."""

INTRUDER = "intruder"
"""Intruder detection: a score of a feature, not of an explanation."""
