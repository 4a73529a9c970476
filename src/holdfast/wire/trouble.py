"""Trouble on the way to a server, as the errors of holdfast that it means."""

from __future__ import annotations

import os
import socket
import ssl
from typing import NoReturn

from holdfast.errors import HoldfastError, TimedOut, Unavailable
from holdfast.wire.answer_head import BadAnswer
from holdfast.wire.http1 import Ended


def raise_ours(where: str, error: OSError) -> NoReturn:
    """Raises what trouble on the way to ``where`` means; an error of ours (some are OSErrors, too) as it is."""
    if isinstance(error, HoldfastError):
        raise error
    if isinstance(error, TimeoutError):
        raise TimedOut(f"{where}: no answer in time") from error
    raise Unavailable(f"{where}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    """In a few words of ours: what the libraries say is long, and repeats the address."""
    if isinstance(error, socket.gaierror):
        return "no machine of this name is known"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection could be made (is the certificate trusted here?)"
    if isinstance(error, Ended):
        return "the connection was closed without an answer" if error.untouched else "the answer broke off"
    if isinstance(error, BadAnswer):
        return f"what answers there does not speak HTTP as holdfast does ({error})"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return "the connection failed"
