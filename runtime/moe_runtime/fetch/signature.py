"""AWS Signature Version 4 of requests without a body: pure but for the clock.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_EMPTY: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks."""

    key: str
    secret: str
    token: str
    """Of temporary credentials; else empty."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Credentials | None":
        """The environment's; None where it has none."""
        key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
        return cls(key, secret, environment.get("AWS_SESSION_TOKEN", "")) if key and secret else None


def signed_headers(
    credentials: Credentials | None,
    region: str,
    url: str,
    query: str,
    headers: Mapping[str, str],
    now: datetime | None = None,
) -> dict[str, str]:
    """Headers of a GET with a signature of them, of `url` and of its canonical `query`; without one for nobody."""
    if credentials is None:
        return dict(headers)
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    where = urlsplit(url)
    given = {**headers, "x-amz-date": moment, "x-amz-content-sha256": _EMPTY}
    if credentials.token:
        given["x-amz-security-token"] = credentials.token
    signed = {"host": where.netloc, **{name.lower(): value for name, value in given.items()}}
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    canonical = f"GET\n{where.path or '/'}\n{query}\n{lines}\n{names}\n{_EMPTY}"
    to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    given["Authorization"] = (
        f"{_ALGORITHM} Credential={credentials.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return given
