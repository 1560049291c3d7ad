"""Checks of an endpoint's address."""

from urllib.parse import urlsplit

from safesail.errors import ConfigError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_address(base_url: str) -> None:
    """Refuse an address that is none, or that holds credentials: they would end up in ledger, cache and releases.

    Raises:
        ConfigError: it is so; the address itself is not repeated.
    """
    scheme, _, rest = base_url.partition("://")
    if scheme not in ("http", "https") or not rest:
        raise ConfigError(
            "the endpoint's address must begin with http:// or https://, as http://localhost:8000/v1"
        )
    if "@" in rest.split("/", 1)[0] or "?" in rest or "#" in rest:
        raise ConfigError(
            "the endpoint's address must hold no credentials and no ?; set OPENAI_API_KEY instead"
        )


def is_loopback(base_url: str) -> bool:
    """Whether the endpoint is on this machine."""
    return urlsplit(base_url).hostname in _LOOPBACK


def check_key(key: str) -> None:
    """Refuse a key that no header can carry.

    Raises:
        ConfigError: it has blanks or other than ASCII characters in it; the key itself is not repeated.
    """
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            "the key has characters that no key has (blanks, line ends or letters with accents)"
        )
