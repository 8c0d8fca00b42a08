"""An OpenBao or Vault server: its address, the ways to log in, and the translation of hvac's errors."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.node.network import is_loopback
from decoder.provider import Option
from decoder.provider.address import split_url
from decoder.provider.errors import ProviderError
from decoder.provider.optionfile import read_option_file

if TYPE_CHECKING:
    import hvac
    from hvac.exceptions import VaultError

    from decoder.provider.services.web import Session

_Result = TypeVar("_Result")
_JWT_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"

OPTIONS = (
    Option("address", "https://HOST:PORT of the server (default: BAO_ADDR or VAULT_ADDR)"),
    Option("insecure-http", "yes: allow http:// to hosts other than this one (default: no)"),
    Option("ca-file", "CA certificates of the server, PEM (default: BAO_CACERT, VAULT_CACERT or the system's)"),
    Option("namespace", "the namespace (default: BAO_NAMESPACE or VAULT_NAMESPACE)"),
    Option("token-file", "a file with a token, read each time (default without another login: BAO_TOKEN, VAULT_TOKEN)"),
    Option("role-id", "the role ID for a login with AppRole"),
    Option("secret-id-file", "the file with the secret ID of that role, if it needs one"),
    Option("kubernetes-role", "the role for a login with a Kubernetes service account"),
    Option("jwt-file", f"the token of the service account (default: {_JWT_FILE})"),
    Option("auth-mount", "the mount path of the login method (default: approle or kubernetes)"),
)

_PATH = re.compile(r"[A-Za-z0-9_.-]{1,128}(/[A-Za-z0-9_.-]{1,128}){0,7}", re.ASCII)
_CREDENTIAL = re.compile(r"[!-~]{1,16384}", re.ASCII)


class Login(Protocol):
    """A way to get a token."""

    def __call__(self, client: hvac.Client) -> float:
        """Set the client's token, and return how many seconds it may be used again; 0.0 for a single use."""


class Server(NamedTuple):
    """The address of a server and the way to log in.

    Attributes:
        address: the base URL, without a slash at the end.
        host: the host and port of the address, for messages.
        namespace: the namespace of every request, or "".
        ca_file: the path of the certificates to accept, in PEM, or "" for the system's.
        login: gets a token.
    """

    address: str
    host: str
    namespace: str
    ca_file: str
    login: Login

    def client(self, session: Session) -> hvac.Client:
        """Build a client without a token; hvac would otherwise take one from the environment or ~/.vault-token."""
        import hvac

        namespace = self.namespace or None
        return hvac.Client(self.address, token="", session=session, namespace=namespace, allow_redirects=False)


def is_path(text: str) -> bool:
    """Check whether a text is one or more names that are safe in the path of a URL."""
    return bool(_PATH.fullmatch(text)) and not any(part in (".", "..") for part in text.split("/"))


def server_of(options: Mapping[str, str]) -> Server:
    """Parse the server's address and the way to log in from the options, with defaults from the environment.

    Raises:
        UsageError: an option is missing, contradicts another one, or is malformed.
    """
    address = _setting(options, "address", "ADDR")
    host = _checked_host(address, options.get("insecure-http", "no"))
    namespace = _setting(options, "namespace", "NAMESPACE")
    if namespace and not is_path(namespace.rstrip("/")):
        raise UsageError("the option namespace is not a path of letters, digits, '_', '.' and '-'")
    ca_file = _setting(options, "ca-file", "CACERT")
    if ca_file and not os.path.isfile(ca_file):
        raise UsageError(f"the ca-file {quoted(ca_file)} is not a file")
    return Server(address.rstrip("/"), host, namespace, ca_file, _login(options))


def _setting(options: Mapping[str, str], name: str, variable: str) -> str:
    return options.get(name) or os.environ.get(f"BAO_{variable}") or os.environ.get(f"VAULT_{variable}", "")


def _checked_host(address: str, insecure: str) -> str:
    if insecure not in ("yes", "no"):
        raise UsageError("the option insecure-http is neither yes nor no")
    if not address:
        raise UsageError("openbao needs the option address, BAO_ADDR or VAULT_ADDR")
    url = split_url(address, "the address of the server")
    if url.scheme == "http" and insecure == "no" and not is_loopback(url.hostname or ""):
        raise UsageError(f"the address {quoted(address)} is not https; insecure-http yes allows it")
    return url.netloc


def _login(options: Mapping[str, str]) -> Login:
    """Choose the one login that the options describe."""
    chosen = [name for name in ("token-file", "role-id", "kubernetes-role") if name in options]
    if len(chosen) > 1:
        raise UsageError(f"the options {' and '.join(chosen)} exclude each other")
    if "secret-id-file" in options and chosen != ["role-id"]:
        raise UsageError("the option secret-id-file needs role-id")
    if "jwt-file" in options and chosen != ["kubernetes-role"]:
        raise UsageError("the option jwt-file needs kubernetes-role")
    method = chosen[0] if chosen else ""
    mount = options.get("auth-mount", "approle" if method == "role-id" else "kubernetes")
    if not is_path(mount):
        raise UsageError("the option auth-mount is not a path of letters, digits, '_', '.' and '-'")
    if method == "role-id":
        return _app_role(options["role-id"], options.get("secret-id-file"), mount)
    if method == "kubernetes-role":
        return _kubernetes(options["kubernetes-role"], options.get("jwt-file", _JWT_FILE), mount)
    return _token(options.get("token-file"))


def _token(path: str | None) -> Login:
    def login(client: hvac.Client) -> float:
        if path is None:
            token = os.environ.get("BAO_TOKEN") or os.environ.get("VAULT_TOKEN", "")
            if not _CREDENTIAL.fullmatch(token):
                raise ProviderError("openbao has no token: give it token-file, a role, BAO_TOKEN or VAULT_TOKEN")
        else:
            token = _credential(path, "token-file")
        client.token = token
        return 0.0

    return login


def _app_role(role_id: str, secret_path: str | None, mount: str) -> Login:
    def login(client: hvac.Client) -> float:
        secret_id = None if secret_path is None else _credential(secret_path, "secret-id-file")
        return _lifetime(client.auth.approle.login(role_id, secret_id, mount_point=mount))

    return login


def _kubernetes(role: str, jwt_path: str, mount: str) -> Login:
    def login(client: hvac.Client) -> float:
        return _lifetime(client.auth.kubernetes.login(role, _credential(jwt_path, "jwt-file"), mount_point=mount))

    return login


def _credential(path: str, option: str) -> str:
    text = read_option_file(path, f"the {option}").decode(errors="replace").strip()
    if not _CREDENTIAL.fullmatch(text):
        raise ProviderError(f"the {option} {quoted(path)} does not hold a single word")
    return text


def _lifetime(reply: object) -> float:
    """Return two thirds of a token's lease in seconds: the token is used again for that long."""
    auth = reply["auth"] if isinstance(reply, dict) else {}
    seconds = auth.get("lease_duration")
    return seconds * 2 / 3 if type(seconds) is int and 0 < seconds < 1 << 31 else 0.0


class CachedLogin:
    """A login whose token is used again while its lease lasts, from any thread."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._lock = threading.Lock()
        self._token = ""
        self._until = 0.0

    def give_token(self, client: hvac.Client) -> bool:
        """Set the token of the client; return whether it comes from an earlier login."""
        with self._lock:
            token, until = self._token, self._until
        if monotonic() < until:
            client.token = token
            return True
        lifetime = self._login(client)
        with self._lock:
            self._token, self._until = client.token, monotonic() + lifetime
        return False

    def forget(self) -> None:
        """Allow the next thread to log in."""
        with self._lock:
            self._until = 0.0


def translated(work: Callable[[], _Result], host: str) -> _Result:
    """Run a function that uses hvac, and turn its exceptions into ProviderErrors.

    Raises:
        ProviderError: the server rejected the request (the message quotes the documented `errors` of its reply),
            or the reply is malformed.
    """
    from hvac.exceptions import VaultError

    try:
        return work()
    except VaultError as error:
        raise ProviderError(f"{host} answers {type(error).__name__}{_words(error)}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # hvac, for a reply that it does not expect
        raise ProviderError(f"the reply of {host} cannot be understood") from error


def _words(error: VaultError) -> str:
    words = [item.strip() for item in error.errors or [] if isinstance(item, str)]
    return f": {quoted('; '.join(words))[: limits.PROVIDER_ERROR_BYTES]}" if words else ""
