"""A token server for docker-registry (distribution's token authentication), for as long as a block lasts.

    with running_token_server(users={"alice": "secret"}) as tokens:
        with running_registry(root, token=tokens) as url:
            ...
    assert tokens.requests[0].basic == ("alice", "secret")

Its tokens are signed, so that a real registry takes them and nothing else. All that it was asked is kept.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.server
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.tls_lab import Authority

REGISTRY_LEEWAY = 60
"""Seconds that docker-registry forgives a token after its end."""


@dataclass(frozen=True)
class TokenRequest:
    """What somebody asked the token server; `parameters` are the query's or the form's."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    parameters: Mapping[str, str]
    scopes: tuple[str, ...] = ()

    @property
    def basic(self) -> tuple[str, str] | None:
        """User and password of a Basic Authorization header."""
        scheme, _, encoded = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
            return name, password
        return None


def _nobody(repository: str) -> bool:
    return False


def everybody(repository: str) -> bool:
    """For `public`: every repository may be pulled without credentials."""
    return True


@dataclass
class TokenServer:
    """A running token server. Fields may be changed while it runs."""

    users: dict[str, str] = field(default_factory=dict)
    """Password by user: each may pull and push everything."""
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    """User by refresh token (identity token)."""
    public: Callable[[str], bool] = _nobody
    """Which repositories may be pulled without credentials."""
    oauth: int = 200
    """Status of a POST: 200 for OAuth2, 404 or 405 where the server knows GET only."""
    lifetime: float = 300.0
    """Seconds after which docker-registry refuses a token."""
    expires_in: int | None = 300
    """What the answer says of it; None leaves it out, as old servers do."""
    fields: tuple[str, ...] = ("token", "access_token")
    """Names under which the answer has the token."""
    failing: list[int] = field(default_factory=list)
    """Statuses that are answered first, one a request."""
    gate: threading.Event | None = None
    """When set, every answer waits for it (30 s at most)."""
    service: str = "test-registry"
    issuer: str = "test-issuer"
    requests: list[TokenRequest] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)
    url: str = ""
    """The realm."""

    def __post_init__(self) -> None:
        self._authority = Authority("token signer")
        signer = self._authority.client("token signer")
        key = serialization.load_pem_private_key(signer.key.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        certificate = x509.load_pem_x509_certificate(signer.certificate.encode())
        self._chain = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()

    @property
    def root_bundle(self) -> str:
        """PEM that docker-registry is to trust (`rootcertbundle`)."""
        return self._authority.pem

    def token(self, subject: str, scopes: tuple[str, ...]) -> str:
        """A signed token (distribution's JWT specification); scopes that are not allowed are left out."""
        now = time.time()
        access = [entry for scope in scopes if (entry := self._access(subject, scope)) is not None]
        claims = {
            "iss": self.issuer,
            "sub": subject,
            "aud": self.service,
            "exp": int(now + self.lifetime - REGISTRY_LEEWAY),
            "nbf": int(now - 2 * REGISTRY_LEEWAY),
            "iat": int(now),
            "jti": secrets.token_hex(8),
            "access": access,
        }
        head = {"typ": "JWT", "alg": "ES256", "x5c": [self._chain]}
        text = f"{_part(json.dumps(head).encode())}.{_part(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        token = f"{text}.{_part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
        self.issued.append(token)
        return token

    def _access(self, subject: str, scope: str) -> dict[str, object] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        wanted = actions.split(",")
        if not subject:
            wanted = ["pull"] if "pull" in wanted and self.public(name) else []
        return {"type": kind, "name": name, "actions": wanted} if name and wanted else None

    def answer(self, request: TokenRequest) -> tuple[int, dict[str, object]]:
        """Status and document for a request."""
        if self.gate is not None:
            self.gate.wait(30)
        if self.failing:
            return self.failing.pop(0), {"details": "told to fail"}
        if request.method == "POST":
            return self._oauth(request)
        subject = ""
        if "authorization" in request.headers:
            given = request.basic
            if given is None or not self._knows(*given):
                return 401, {"details": "incorrect username or password"}
            subject = given[0]
        return 200, self._reply(self.token(subject, request.scopes), {})

    def _oauth(self, request: TokenRequest) -> tuple[int, dict[str, object]]:
        if self.oauth != 200:
            return self.oauth, {}
        form = request.parameters
        subject: str | None = None
        if form.get("grant_type") == "refresh_token":
            subject = self.refresh_tokens.get(form.get("refresh_token", ""))
        elif form.get("grant_type") == "password":
            name = form.get("username", "")
            subject = name if self._knows(name, form.get("password", "")) else None
        if subject is None:
            return 401, {"error": "invalid_grant"}
        extra: dict[str, object] = {"scope": " ".join(request.scopes)}
        if form.get("access_type") == "offline":
            refresh = secrets.token_hex(16)
            self.refresh_tokens[refresh] = subject
            extra["refresh_token"] = refresh
        return 200, self._reply(self.token(subject, request.scopes), extra)

    def _knows(self, name: str, password: str) -> bool:
        return bool(name) and self.users.get(name) == password

    def _reply(self, token: str, extra: dict[str, object]) -> dict[str, object]:
        document = {**dict.fromkeys(self.fields, token), **extra}
        if self.expires_in is not None:
            document |= {"expires_in": self.expires_in}
        return document


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tokens: TokenServer

    def do_GET(self) -> None:
        query = urlsplit(self.path).query
        self._answer(query)

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length") or 0), 1 << 20)
        self._answer(self.rfile.read(length).decode())

    def _answer(self, text: str) -> None:
        scopes = " ".join(parse_qs(text).get("scope", [])).split()
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = TokenRequest(self.command, self.path, headers, dict(parse_qsl(text)), tuple(scopes))
        self.tokens.requests.append(request)
        status, document = self.tokens.answer(request)
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no matter."""


@contextlib.contextmanager
def running_token_server(
    *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1", **options: object
) -> Iterator[TokenServer]:
    """A token server on a free port of the loopback interface; `options` are fields of TokenServer."""
    tokens = TokenServer(**options)  # type: ignore[arg-type]  # the test names real fields
    handler = type("Handler", (_Handler,), {"tokens": tokens})
    server = _Server((address, 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    tokens.url = f"{'http' if tls is None else 'https'}://{address}:{server.server_address[1]}/token"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield tokens
    finally:
        if tokens.gate is not None:
            tokens.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
