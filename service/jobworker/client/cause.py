"""Why the service cannot be reached, which gRPC says late or not at all: looked for in the client's own bundle, and by
a TLS handshake of its own. Blocks, as a rule for less than a second; what becomes of the call is decided elsewhere.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from jobworker.client.bundle import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from jobworker.client.links import host_of, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jobworker.client.bundle import Bundle

_STEP_SECONDS = 1.0
# gRPC takes other forms as well (doc/naming.md), which are not looked into.
_HOST_AND_PORT = re.compile(r"(\[[^\[\]/]+\]|[^:/\[\]]+):[0-9]{1,5}")
# X509_V_ERR_... of OpenSSL's x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_AUTHORITY = frozenset({2, 7, 18, 19, 20, 21, 30})  # no issuer found, another's signature or key, self-signed
_OTHER_NAME = frozenset({62, 64})  # host name, IP address
# What OpenSSL makes of bytes that are not TLS.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})


_CLOSED_TIMES = 2
_PIECE_BYTES = 16 << 10

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Cause:
    """`words` are one line for people. `kind` is what another try depends on: "lasting" goes on until somebody mends
    it, "name" is a host that does not resolve, "passing" may be over soon."""

    words: str
    kind: str = "lasting"


_CLOSED = Cause("the service closed the connection after the handshake")


class Finder:
    """Looks for the cause of failures to connect to one address."""

    def __init__(self, *, address: str, folder: str, server_name: str | None) -> None:
        """`folder`: of the bundle, for the words; empty where it has none."""
        self._address = address
        self._host = host_of(address)
        self._name = server_name or self._host
        self._folder = folder

    def find(self, bundle: Bundle, environment: Mapping[str, str]) -> Cause | None:
        """None: nothing is wrong that can be seen from here. `environment` names proxies."""
        own = self._own(bundle)
        if own is not None or not _HOST_AND_PORT.fullmatch(self._address) or not hasattr(os, "memfd_create"):
            return own
        port = int(self._address.rpartition(":")[2])
        proxy = proxy_for(self._host, environment)
        if proxy is not None:
            words = f"the service cannot be reached through the proxy {proxy[1]}, which the variable {proxy[0]} names"
            return Cause(f"{words}; no_proxy={self._host} goes past it", "passing")
        for _ in range(_CLOSED_TIMES):
            try:
                with socket.create_connection((self._host, port), _STEP_SECONDS) as sock:
                    found = self._shake_hands(sock, bundle)
            except (socket.gaierror, UnicodeError) as error:
                lasting = isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
                return Cause(f"the name {self._host} does not resolve", "name" if lasting else "passing")
            except (OSError, OverflowError) as error:
                words = (getattr(error, "strerror", None) or str(error)).lower()
                return Cause(f"the service cannot be reached: {words}", "passing")
            if found is not _CLOSED:
                return found
        # gRPC's servers send no alert. One that restarts closes its connections as well, but takes no new ones.
        return self._refused_by_them(bundle, "")

    def _own(self, bundle: Bundle) -> Cause | None:
        try:
            certificate = x509.load_pem_x509_certificate(bundle.certificate)
        except (ValueError, x509.InvalidVersion):
            return Cause(f"{self._path(CERTIFICATE_FILE)}: is not a certificate{self._anew('NAME')}")
        user = _user_of(certificate)
        if not bundle.key_fits():
            words = f"{self._path(KEY_FILE)}: is not the key of {self._path(CERTIFICATE_FILE)}"
            return Cause(f"{words}{self._anew(user)}")
        path, now = self._path(CERTIFICATE_FILE), datetime.now(UTC)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > ends:
            mend = f"jobpki renew {user} && jobpki export {user} FILE"
            return Cause(f"{path}: expired on {_moment(ends)} - get the bundle anew, from: {mend}")
        if now < begins:
            return Cause(f"{path}: is valid from {_moment(begins)}, and this machine's clock says {_moment(now)}")
        return None

    def _shake_hands(self, sock: socket.socket, bundle: Bundle) -> Cause | None:  # noqa: PLR0911 - a line for each end
        there = sock.getpeername()[:2]
        try:
            context = _context(bundle)
        except (ssl.SSLError, UnicodeDecodeError):
            return Cause(f"{self._path(CA_FILE)}: is not a certificate{self._anew('NAME')}")
        try:
            tls = _Tls(context, sock, name=self._name)
            # With TLS 1.3 we are done before the service has seen our certificate. Then it begins to speak (HTTP/2
            # SETTINGS), or refuses it.
            return None if tls.speaks() else _CLOSED
        except ssl.SSLCertVerificationError as error:
            return self._refused_by_us(error, bundle, there)
        except ssl.SSLError as error:
            reason = error.reason or ""
            if reason in _NO_TLS:
                return Cause("it does not speak TLS: is this another service, or another of its ports?")
            if "ALERT_" not in reason:
                return None
            return self._refused_by_them(bundle, reason.partition("ALERT_")[2].replace("_", " ").lower())
        except OSError:  # a timeout, a reset: it may be starting, or on its way out
            return None

    def _refused_by_us(self, error: ssl.SSLCertVerificationError, bundle: Bundle, there: tuple[str, int]) -> Cause:
        theirs = "the service's certificate"
        user = _user_of(x509.load_pem_x509_certificate(bundle.certificate))
        if error.verify_code in _OTHER_AUTHORITY:
            return Cause(f"{theirs} is of another authority than those in {self._path(CA_FILE)}{self._anew(user)}")
        shown = _shown(bundle, there)
        if error.verify_code in _OTHER_NAME:
            names = ", ".join(_names(shown)) if shown is not None else "other names"
            mend = f"jobpki renew server --san {shlex.quote(self._name)}"
            return Cause(f"{theirs} is for {names}, not for {self._name} - connect to one of these, or run: {mend}")
        if error.verify_code == _EXPIRED:
            when = "" if shown is None else f" on {_moment(shown.not_valid_after_utc)}"
            return Cause(f"{theirs} expired{when} - run: jobpki renew server")
        if error.verify_code == _NOT_YET_VALID:
            when = "" if shown is None else f" until {_moment(shown.not_valid_before_utc)}"
            return Cause(f"{theirs} is not valid{when}, and this machine's clock says {_moment(datetime.now(UTC))}")
        return Cause(f"{theirs} is not good: {error.verify_message}")

    def _refused_by_them(self, bundle: Bundle, words: str) -> Cause:
        user = _user_of(x509.load_pem_x509_certificate(bundle.certificate))
        why = f": {words}" if words else ": it does not trust the authority that signed it"
        return Cause(f"the service refuses {self._path(CERTIFICATE_FILE)}{why}{self._anew(user)}")

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name) if self._folder else f"the bundle's {name}"

    def _anew(self, user: str) -> str:
        return f" - get the bundle anew, from: jobpki export {user} FILE"


def proxy_for(host: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable and the proxy, without name and password, that gRPC takes for a host (its
    doc/environment_variables.md). It never does for this machine (see `links`)."""
    if is_loopback(host):
        return None
    passed_by = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    if any(end and host.endswith(end) for end in (part.strip() for part in passed_by.split(","))):
        return None
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        if value := environment.get(variable):
            parts = urlsplit(value)
            return variable, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return None


def _context(bundle: Bundle, *, verify: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = verify
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    context.load_verify_locations(cadata=bundle.ca.decode())
    context.set_alpn_protocols(["h2"])
    with ExitStack() as stack:
        # OpenSSL takes files alone, and what was read before may be others by now.
        context.load_cert_chain(*(_file(stack, content) for content in (bundle.certificate, bundle.key)))
    return context


def _file(stack: ExitStack, content: bytes) -> str:
    """A file in memory, as long as the stack lasts."""
    descriptor = os.memfd_create("jobworker-bundle")
    stack.callback(os.close, descriptor)
    os.write(descriptor, content)
    return f"/proc/self/fd/{descriptor}"


class _Tls:
    """The client's side of a handshake, over a socket that stays its owner's: Python's SSLSocket leaves it open where
    the other side resets the connection early."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, *, name: str | None = None) -> None:
        """Shakes hands.

        Raises:
            OSError: it failed; ssl.SSLError: for a reason that TLS has.
        """
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._until_done(self._tls.do_handshake)

    def speaks(self) -> bool:
        """Whether the other side says anything, instead of leaving."""
        try:
            return bool(self._until_done(lambda: self._tls.read(1)))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
            return False

    def certificate(self) -> bytes | None:
        """The other side's, as DER."""
        return self._tls.getpeercert(binary_form=True)

    def _until_done(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._out.read())
                received = self._sock.recv(_PIECE_BYTES)
                if received:
                    self._in.write(received)
                else:
                    self._in.write_eof()
            else:
                self._sock.sendall(self._out.read())
                return done


def _shown(bundle: Bundle, there: tuple[str, int]) -> x509.Certificate | None:
    """What the service shows to whoever looks at nothing of it."""
    try:
        with socket.create_connection(there, _STEP_SECONDS) as sock:
            shown = _Tls(_context(bundle, verify=False), sock).certificate()
        return None if shown is None else x509.load_der_x509_certificate(shown)
    except (OSError, ValueError):
        return None


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return
    yield from names.get_values_for_type(x509.DNSName)
    yield from map(str, names.get_values_for_type(x509.IPAddress))


def _user_of(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return shlex.quote(str(names[0].value)) if names else "NAME"


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
