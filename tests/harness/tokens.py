"""Tokens that the service would not give, signed with its own key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization

from jobpki import keys
from jobpki.layout import Layout
from jobpki.publish import publish_file
from jobworker.server.credentials import LOGGED_OUT


class Tokens:
    """Makes tokens like one that the service gave, but for what is asked for."""

    def __init__(self, pki: Path, token: str) -> None:
        (self._key,) = keys.p256s_from_pem((path := Layout(pki).token_key).read_bytes(), path)
        self._header = jwt.get_unverified_header(token)
        self._claims = jwt.decode(token, options={"verify_signature": False})

    def __call__(self, *, alg: str = "ES256", kid: str | None = "", key: Any = None, **claims: object) -> str:
        """`kid`: of the header, None without one; "" is the service's."""
        header = {name: value for name, value in (self._header | {"alg": alg, "kid": kid}).items() if value is not None}
        if kid == "":
            header["kid"] = self._header["kid"]
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, self._claims | claims))
        return b".".join([signed, _base64url(self._signature(alg, signed, key or self._key))]).decode()

    def _signature(self, alg: str, signed: bytes, key: Any) -> bytes:
        if alg == "none":
            return b""
        if alg == "HS256":  # with what everyone may know as its secret (RFC 8725 section 2.1)
            pem = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            return hmac.digest(key.public_key().public_bytes(*pem), signed, hashlib.sha256)
        return jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(signed, key)


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def take_logouts_back(data: Path) -> None:
    """In a service's data folder: tokens that were ended work again."""
    if (data / LOGGED_OUT).exists():
        publish_file(data / LOGGED_OUT, b'{"version": 1, "tokens": {}}', mode=0o600)
