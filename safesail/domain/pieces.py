r"""Tokens that are pieces of one character, such as `\xe4` `\xb8` `\x80` for 一: spelled, and joined again."""

import re
from collections.abc import Sequence

_PIECE = re.compile(rb"\\x([89a-f][0-9a-f])")
_CUT_OFF = re.compile(rb"^[\x80-\xbf]{1,3}")
_UNKNOWN = "\ufffd"

_LONGEST = 12
"""Tokens that are tried as pieces of one character: an emoji may begin and end inside its neighbours' tokens."""


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's one-character names of the 256 bytes: printable ones name themselves, the rest 256 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _byte_alphabet()


def spell_byte_level(token: str) -> str:
    r"""A token in GPT-2's byte alphabet as text (`Ġthe` is ` the`); bytes of a broken character as `\xe4`."""
    if any(character not in _BYTES for character in token):
        return token
    return bytes(_BYTES[character] for character in token).decode("utf-8", "backslashreplace")


def spell_tokens(tokens: Sequence[str]) -> list[str]:
    """A window's tokens as text, where they stand as a tokenizer's vocabulary has them: `Ġ`, `âĢĲ`, `▁`."""
    if any("Ġ" in token or "Ċ" in token for token in tokens):
        return [spell_byte_level(token) for token in tokens]
    return [token.replace("\u2581", " ") for token in tokens]


def piece_bytes(token: str) -> bytes:
    r"""The bytes of a token, those of a broken character spelled `\xe4`."""
    return _PIECE.sub(lambda match: bytes([int(match[1], 16)]), token.encode("utf-8", "replace"))


def has_pieces(tokens: Sequence[str]) -> bool:
    """Whether some token may be a piece of a character."""
    return any("\\x" in token or token == _UNKNOWN for token in tokens)


def joined_text(tokens: Sequence[str]) -> str:
    r"""The text that tokens make, their pieces of characters spelled `\xe4`; what is no character becomes U+FFFD."""
    return b"".join(map(piece_bytes, tokens)).decode("utf-8", "replace")


def join_pieces(
    tokens: Sequence[str], activations: Sequence[float]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    r"""A window with each character whole: its pieces are one token, with the activation of the strongest.

    A character that the window cuts off at its start or end becomes U+FFFD.

    Args:
        tokens: Bytes of broken characters are spelled `\xe4`.
        activations: One per token.
    """
    if not has_pieces(tokens):
        return tuple(tokens), tuple(activations)  # nearly every window, and many are read
    texts: list[str] = []
    strongest: list[float] = []
    start = 0
    while start < len(tokens):
        text, stop = _character(tokens, start, cut_off=all(earlier == _UNKNOWN for earlier in texts))
        maximum = max(activations[start:stop])
        start = stop
        if texts and text == texts[-1] == _UNKNOWN:
            strongest[-1] = max(strongest[-1], maximum)
        else:
            texts.append(text)
            strongest.append(maximum)
    return tuple(texts), tuple(strongest)


def _character(tokens: Sequence[str], start: int, *, cut_off: bool) -> tuple[str, int]:
    """The text from token `start` to where its last character is whole, and the token after that.

    `cut_off`: the token may begin with the rest of a character that began before the window.
    """
    pieces = b""
    for stop in range(start, min(start + _LONGEST, len(tokens))):
        piece = piece_bytes(tokens[stop])
        whole = piece == tokens[stop].encode("utf-8", "replace")
        if whole and stop == start:
            return tokens[start], start + 1
        if whole:
            break  # no piece: what came before is no character
        pieces += piece
        known = _CUT_OFF.sub(_UNKNOWN.encode(), pieces) if cut_off else pieces
        try:
            return known.decode("utf-8"), stop + 1
        except UnicodeDecodeError:
            continue
    else:
        if start + _LONGEST >= len(tokens):
            return pieces.decode("utf-8", "replace"), len(tokens)
    return tokens[start], start + 1
