"""How an S3 service is reached: endpoint, credentials, and its errors as ours.

Credentials come from the environment or from the shared credentials file, as other S3 tools take them; never from the
URL. On Amazon's own machines the library finds the instance's role by itself.
"""

from __future__ import annotations

import configparser
import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from obstore import exceptions as s3_errors
from obstore.store import S3Store as Client

from holdfast.errors import BadConfig, Denied, HoldfastError, NoSpace, NotFound, TimedOut, TooLarge, Unavailable
from holdfast.stores.url import StoreUrl

REGION = "us-east-1"
"""Where none is named: what services that know no regions expect."""
CONNECT_S = 5
REQUEST_S = 600
"""A whole request, its body included: 32 MiB at 60 KB/s."""
RETRIES = 4
RETRY_S = 20
_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def connect(url: StoreUrl, environment: Mapping[str, str]) -> Client:
    """Speaks to nobody yet. BadConfig if something is missing or does not fit."""
    endpoint = url.options.get("endpoint")
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise BadConfig(f"endpoint={endpoint} is no address: write https://host or http://host:port")
    config: dict[str, Any] = {
        "region": url.options.get("region")
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or REGION,
        "checksum_algorithm": "sha256",  # of each body and part: the service refuses what was changed on the way
        "virtual_hosted_style_request": endpoint is None,
    }
    if endpoint is not None:
        config["endpoint"] = endpoint
    keys = credentials(environment)
    if keys is None and endpoint is not None:
        raise BadConfig(
            "no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or write them to ~/.aws/credentials (AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE)"
        )
    for name, value in zip(("access_key_id", "secret_access_key", "session_token"), keys or (), strict=False):
        if value:
            config[name] = value
    seconds = datetime.timedelta
    try:
        return Client(
            url.host,
            prefix=url.path or None,
            config=config,  # type: ignore[arg-type]  # a TypedDict, built by parts
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http://"),
                "connect_timeout": seconds(seconds=CONNECT_S),
                "timeout": seconds(seconds=REQUEST_S),
                "user_agent": "holdfast",
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": seconds(seconds=RETRY_S)},
        )
    except (s3_errors.BaseError, ValueError) as error:
        raise BadConfig(f"{url} cannot be used: {_short(error)}") from error


def credentials(environment: Mapping[str, str]) -> tuple[str, str, str] | None:
    """(key id, secret, session token or nothing) from the environment, else from the profile in the shared file."""
    named = [environment.get(key.upper(), "") for key in _KEYS]
    if named[0] and named[1]:
        return named[0], named[1], named[2]
    home = environment.get("HOME")
    path = environment.get("AWS_SHARED_CREDENTIALS_FILE") or (home and str(Path(home) / ".aws" / "credentials"))
    profile = environment.get("AWS_PROFILE", "default")
    if not path:
        return None
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise BadConfig(f"the credentials file {path} cannot be read: {error}") from error
    if not parser.has_section(profile):
        return None
    found = [parser.get(profile, key, fallback="") for key in _KEYS]
    return (found[0], found[1], found[2]) if found[0] and found[1] else None


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns the library's exceptions into ours; FileNotFoundError means that the key, or the bucket, is not there."""
    try:
        yield
    except HoldfastError:
        raise
    except FileNotFoundError as error:
        raise NotFound(f"{what}: not there") from error
    except (s3_errors.PermissionDeniedError, s3_errors.UnauthenticatedError) as error:
        raise Denied(f"{what}: the service refuses these credentials ({_short(error)})") from error
    except (s3_errors.BaseError, OSError) as error:
        raise _by_words(what, error) from error


def _by_words(what: str, error: Exception) -> HoldfastError:
    text = _short(error)
    if any(word in text for word in ("507 ", "QuotaExceeded", "StorageFull", "InsufficientStorage", "No space left")):
        return NoSpace(f"{what}: the service is full ({text})")
    if "EntityTooLarge" in text:
        return TooLarge(f"{what}: the service takes no object of this size")
    if "InvalidAccessKeyId" in text or "SignatureDoesNotMatch" in text:
        return Denied(f"{what}: the service refuses these credentials")
    if "NoSuchBucket" in text:
        return BadConfig(f"{what}: there is no such bucket")
    if "timed out" in text or "timeout" in text.lower():
        return TimedOut(f"{what}: {text}")
    return Unavailable(f"{what}: {text}")


def _short(error: BaseException) -> str:
    """What the library says, without its debug output."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:300]
