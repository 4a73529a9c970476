"""How a process proves to a NATS server who it is. Secrets lie in files; only their paths are in the environment.

The variables are those of the ``nats`` command line, so that what works there works here.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import BadConfig

VARIABLES: Mapping[str, str] = {
    "NATS_CREDS": "a credentials file (JWT and seed, as nsc writes it)",
    "NATS_NKEY": "a file with an nkey seed",
    "NATS_TOKEN_FILE": "a file with a token",
    "NATS_CA": "a file with the certificates that sign the servers'",
    "NATS_CERT": "this client's certificate",
    "NATS_KEY": "its key",
}


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """Paths, each None for not used."""

    creds_file: str | None = None
    nkey_file: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> NatsAccess:
        """From ``VARIABLES``; BadConfig if they contradict each other."""
        found = cls(*(environment.get(name) or None for name in VARIABLES))
        if sum(path is not None for path in (found.creds_file, found.nkey_file, found.token_file)) > 1:
            raise BadConfig("set only one of NATS_CREDS, NATS_NKEY and NATS_TOKEN_FILE")
        if (found.cert_file is None) != (found.key_file is None):
            raise BadConfig("NATS_CERT and NATS_KEY belong together")
        return found

    def options(self, *, tls: bool) -> dict[str, Any]:
        """What the client library's ``connect`` is told; BadConfig for a file that cannot be read."""
        options: dict[str, Any] = {}
        if self.creds_file is not None:
            _text(self.creds_file, "NATS_CREDS")
            options["user_credentials"] = self.creds_file
        if self.nkey_file is not None:
            options["nkeys_seed_str"] = _text(self.nkey_file, "NATS_NKEY")
        if self.token_file is not None:
            options["token"] = _text(self.token_file, "NATS_TOKEN_FILE")
        if tls or self.ca_file is not None or self.cert_file is not None:
            options["tls"] = self._tls()
        return options

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise BadConfig(f"the files named by NATS_CA, NATS_CERT or NATS_KEY do not fit: {error}") from error
        return context


def _text(path: str, variable: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{variable} names {path}, which cannot be read: {error}") from error
    if not text:
        raise BadConfig(f"{variable} names {path}, which is empty")
    return text
