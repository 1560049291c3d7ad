"""Checks of an endpoint's address."""

from safesail.errors import ConfigError


def check_address(base_url: str) -> None:
    """Refuse an address that holds credentials: they would end up in ledger, cache and releases.

    Raises:
        ConfigError: it does; the address itself is not repeated.
    """
    if "@" in base_url.split("://", 1)[-1].split("/", 1)[0]:
        raise ConfigError("the endpoint's address must hold no credentials; set OPENAI_API_KEY instead")
