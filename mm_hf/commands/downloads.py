"""Downloads files over http and https, with limits on size, time and address: see `mm_hf fetch`.

It uses the standard library only. It connects to the same address that it has checked. So a host name cannot lead into
a private network by resolving to another address the second time (DNS rebinding).
"""

import http.client
import ipaddress
import mimetypes
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit, urlunsplit

from .. import __version__
from .arguments import FetchArguments


PART = ".part"  # suffix of a file until it is complete
SCHEMES = ("http", "https")
PIECE = 2**16  # bytes per read
TRIES, PAUSE, LONGEST_PAUSE = 3, 1.0, 30.0  # seconds, doubled from try to try; a server may ask for more
BUSY = (429, 500, 502, 503, 504)  # status codes that may change a moment later
MAX_REDIRECTS = 5
UNKNOWN_TYPES = ("", "application/octet-stream", "binary/octet-stream")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
ALLOWED_IN_URLS = "%/:=&?~+!$,;'@()*[]"


class RefusedError(ValueError):
    """A URL was not fetched, or a file was not kept. The message says why."""


def is_public(address: str) -> bool:
    """Whether an address is public: not of a private network, not of this machine, not a multicast address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def connect(host: str, port: int, timeout: Any, allow_private: bool) -> socket.socket:
    """Connects to the first address of a host that is allowed and answers.

    Raises:
        RefusedError: all addresses of the host are private.
        OSError: the host has no address, or no address answers.
    """
    known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [entry for entry in known if allow_private or is_public(str(entry[4][0]))]
    if not addresses:
        raise RefusedError(
            f"{host} is {known[0][4][0]}, an address of a private network: --allow_private accepts such addresses."
        )
    fault: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            fault = error
    raise fault or OSError(f"{host} has no address")


class Plain(http.client.HTTPConnection):
    """An http connection to public addresses."""

    allow_private = False

    def connect(self):
        """See `connect`."""
        self.sock = connect(self.host, self.port, self.timeout, self.allow_private)


class Secure(http.client.HTTPSConnection):
    """An https connection to public addresses."""

    allow_private = False

    def connect(self):
        """See `connect`; the certificate is checked against the host name."""
        connection = connect(self.host, self.port, self.timeout, self.allow_private)
        context: Any = getattr(self, "_context")  # noqa: B009 (it has no public name)
        self.sock = context.wrap_socket(connection, server_hostname=self.host)


class PlainHandler(urllib.request.HTTPHandler):
    """Opens http URLs with `Plain`."""

    def __init__(self, kind: Any):
        super().__init__()
        self.kind = kind

    def http_open(self, request):
        """See the library's method."""
        return self.do_open(self.kind, request)


class SecureHandler(urllib.request.HTTPSHandler):
    """Opens https URLs with `Secure`."""

    def __init__(self, kind: Any):
        super().__init__()
        self.kind = kind

    def https_open(self, request):
        """See the library's method."""
        return self.do_open(self.kind, request)


class RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and only a few times."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(self, request, answer, code, message, headers, target):
        """See the library's method."""
        return super().redirect_request(request, answer, code, message, headers, checked_url(target))


def opener_of(allow_private: bool) -> urllib.request.OpenerDirector:
    """An opener for URLs. Unlike the default opener it has no proxies, no file URLs and no ftp."""
    opener = urllib.request.OpenerDirector()
    kinds = [type(kind.__name__, (kind,), {"allow_private": allow_private}) for kind in (Plain, Secure)]
    for handler in (
        *(PlainHandler(kinds[0]), SecureHandler(kinds[1]), RedirectHandler()),
        *(urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()),
    ):
        opener.add_handler(handler)
    return opener


def checked_url(url: str) -> str:
    """A URL in the form in which it is sent.

    Raises:
        RefusedError: it is not a URL, has another scheme, or contains a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except ValueError as error:
        raise RefusedError(f"this is not a URL ({error}).") from None
    if parts.scheme.lower() not in SCHEMES or not host:
        raise RefusedError(f"its scheme is {parts.scheme!r}; only {' and '.join(SCHEMES)} are allowed.")
    if parts.username is not None:
        raise RefusedError("it contains a user name or password.")
    path, query = (quote(part, safe=ALLOWED_IN_URLS) for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme.lower(), name if port is None else f"{name}:{port}", path or "/", query, ""))


class Downloads:
    """Several downloads at the same time, within common limits.

    Args:
        args: the limits.
        size: bytes that are already on disk; they count towards the total.
    """

    def __init__(self, args: FetchArguments, size: int = 0):
        self.args, self.size, self.types = args, size, list(args.types or ())
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.opener = opener_of(args.allow_private)
        self.agent = args.user_agent or f"mm_hf/{__version__} (mm_hf fetch)"

    def run(self, wanted: Mapping[str, Path]) -> Iterator[tuple[str, Path | None, str | None]]:
        """Downloads each URL into its file. The content type decides the extension of the file.

        Yields:
            the URL, and its file or the reason why there is none, in the order in which downloads end.
        """
        with ThreadPoolExecutor(self.args.parallel) as pool:
            waiting = {pool.submit(self.fetch, url, place): url for url, place in wanted.items()}
            try:
                for done in as_completed(waiting):
                    file, reason = done.result()
                    yield waiting[done], file, reason
            finally:  # Ctrl-C: waiting downloads do not start, running ones end at their next piece
                self.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def fetch(self, url: str, place: Path) -> tuple[Path | None, str | None]:
        """Downloads one file. Gives its path, or the reason why there is none."""
        for number in range(TRIES):
            try:
                return self.download(checked_url(url), place), None
            except RefusedError as error:
                return None, str(error)
            except HTTPError as error:
                error.close()
                reason = f"the server answered {error.code} {error.reason}"
                if error.code not in BUSY:
                    return None, reason
                asked = error.headers.get("Retry-After", "") if error.headers else ""
                pause = float(asked) if asked.isdigit() else PAUSE * 2**number
            except URLError as error:
                if isinstance(error.reason, RefusedError):
                    return None, str(error.reason)
                reason, pause = f"{type(error.reason).__name__}: {error.reason}", PAUSE * 2**number
            except (OSError, http.client.HTTPException) as error:
                reason, pause = f"{type(error).__name__}: {error}", PAUSE * 2**number
            if number < TRIES - 1 and self.stopped.wait(min(pause, LONGEST_PAUSE)):
                return None, "it was stopped."
        return None, f"{reason} ({TRIES} times)"

    def download(self, url: str, place: Path) -> Path:
        """One try.

        Raises:
            RefusedError: the file is too large, takes too long, or has a type that is not wanted.
            OSError: the connection broke.
        """
        end = time.monotonic() + self.args.timeout
        if self.stopped.is_set():
            raise RefusedError("it was stopped.")
        request = urllib.request.Request(url, headers={"User-Agent": self.agent, "Accept-Encoding": "identity"})
        part, got = place.with_name(place.name + PART), 0
        try:
            with self.opener.open(request, timeout=self.args.timeout) as answer, open(part, "wb") as file:
                ending = self.ending_of(answer.headers.get_content_type(), answer.headers, url)
                length = answer.headers.get("Content-Length", "")
                if length.isdigit() and int(length) > self.args.max_bytes:
                    raise RefusedError(f"it has {int(length):,} bytes, but --max_bytes is {self.args.max_bytes:,}.")
                while piece := answer.read1(PIECE):
                    got += len(piece)
                    self.count(len(piece), got)
                    if time.monotonic() > end:
                        raise RefusedError(f"it took longer than --timeout {self.args.timeout} s.")
                    if self.stopped.is_set():
                        raise RefusedError("it was stopped.")
                    file.write(piece)
                if length.isdigit() and got != int(length):
                    raise OSError(f"only {got:,} of {int(length):,} bytes arrived")
                if not got:
                    raise RefusedError("it is empty.")
                file.flush()
                os.fsync(file.fileno())
            whole = place.with_name(place.name + ending)
            part.replace(whole)
            return whole
        except BaseException:
            with self.lock:
                self.size -= got
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def count(self, more: int, got: int):
        """Counts `more` new bytes of a file that has `got` bytes now.

        Raises:
            RefusedError: a limit is exceeded.
        """
        with self.lock:
            self.size += more
            total = self.size
        if got > self.args.max_bytes:
            raise RefusedError(f"it has more bytes than --max_bytes {self.args.max_bytes:,}.")
        if total > self.args.max_total_bytes:
            raise RefusedError(
                f"all files together have more bytes than --max_total_bytes {self.args.max_total_bytes:,}."
            )

    def ending_of(self, content_type: str, headers: Any, url: str) -> str:
        """The extension of a file's name, from the content type of the server, else from the URL.

        Raises:
            RefusedError: its type is not wanted.
        """
        by_name = mimetypes.guess_type(urlsplit(url).path)[0] or ""
        said = content_type if headers.get("Content-Type") else ""
        kind = by_name if said in UNKNOWN_TYPES else said
        if kind.partition("/")[0] not in self.types:
            raise RefusedError(f"it is {kind or 'of an unknown type'}, but --types allows {', '.join(self.types)}.")
        return mimetypes.guess_extension(kind) or ""
