"""Downloads of files over http and https, bounded in every way: see `mm_hf fetch`.

By the standard library alone: the connection is made to the very address that was looked at, so that no name can lead
into a private network by answering otherwise the second time (DNS rebinding).
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


PART = ".part"  # what a file is called until it is whole
SCHEMES = ("http", "https")
PIECE = 2**16  # bytes that are read together
TRIES, PAUSE, LONGEST_PAUSE = 3, 1.0, 30.0  # seconds, doubled from try to try; a server may ask for more
BUSY = (429, 500, 502, 503, 504)  # answers that may be others a moment later
MAX_REDIRECTS = 5
UNKNOWN_TYPES = ("", "application/octet-stream", "binary/octet-stream")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
ALLOWED_IN_URLS = "%/:=&?~+!$,;'@()*[]"


class RefusedError(ValueError):
    """A URL that is not fetched, or a file that is not kept, and why."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet: to no private network, not to this machine, and to no group."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def connect(host: str, port: int, timeout: Any, allow_private: bool) -> socket.socket:
    """A connection to a host, by the first of its addresses that may be taken and answers.

    Raises:
        RefusedError: all of its addresses are private.
        OSError: it has none, or none answers.
    """
    known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [entry for entry in known if allow_private or is_public(str(entry[4][0]))]
    if not addresses:
        raise RefusedError(
            f"{host} is {known[0][4][0]}, an address of a private network: --allow_private takes such ones."
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
    """Of http, to public addresses."""

    allow_private = False

    def connect(self):
        """See `connect`."""
        self.sock = connect(self.host, self.port, self.timeout, self.allow_private)


class Secure(http.client.HTTPSConnection):
    """Of https, to public addresses."""

    allow_private = False

    def connect(self):
        """See `connect`; the certificate is that of the name."""
        connection = connect(self.host, self.port, self.timeout, self.allow_private)
        context: Any = getattr(self, "_context")  # noqa: B009 (it has no public name)
        self.sock = context.wrap_socket(connection, server_hostname=self.host)


class PlainHandler(urllib.request.HTTPHandler):
    """Opens http by `Plain`."""

    def __init__(self, kind: Any):
        super().__init__()
        self.kind = kind

    def http_open(self, request):
        """See the library's method."""
        return self.do_open(self.kind, request)


class SecureHandler(urllib.request.HTTPSHandler):
    """Opens https by `Secure`."""

    def __init__(self, kind: Any):
        super().__init__()
        self.kind = kind

    def https_open(self, request):
        """See the library's method."""
        return self.do_open(self.kind, request)


class RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows to http and https alone, some few times."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(self, request, answer, code, message, headers, target):
        """See the library's method."""
        return super().redirect_request(request, answer, code, message, headers, checked_url(target))


def opener_of(allow_private: bool) -> urllib.request.OpenerDirector:
    """What opens URLs: without proxies, files, ftp, or whatever else the library's own one knows."""
    opener = urllib.request.OpenerDirector()
    kinds = [type(kind.__name__, (kind,), {"allow_private": allow_private}) for kind in (Plain, Secure)]
    for handler in (
        *(PlainHandler(kinds[0]), SecureHandler(kinds[1]), RedirectHandler()),
        *(urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()),
    ):
        opener.add_handler(handler)
    return opener


def checked_url(url: str) -> str:
    """A URL as it is sent.

    Raises:
        RefusedError: it is none, of another scheme, or has a password in it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except ValueError as error:
        raise RefusedError(f"this is no URL ({error}).") from None
    if parts.scheme.lower() not in SCHEMES or not host:
        raise RefusedError(f"its scheme is {parts.scheme!r}; {' and '.join(SCHEMES)} are fetched.")
    if parts.username is not None:
        raise RefusedError("it has a name or password in it.")
    path, query = (quote(part, safe=ALLOWED_IN_URLS) for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme.lower(), name if port is None else f"{name}:{port}", path or "/", query, ""))


class Downloads:
    """Some downloads at the same time, within the same bounds.

    Args:
        args: the bounds.
        size: bytes that are there already, and count too.
    """

    def __init__(self, args: FetchArguments, size: int = 0):
        self.args, self.size, self.types = args, size, list(args.types or ())
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.opener = opener_of(args.allow_private)
        self.agent = args.user_agent or f"mm_hf/{__version__} (mm_hf fetch)"

    def run(self, wanted: Mapping[str, Path]) -> Iterator[tuple[str, Path | None, str | None]]:
        """Downloads each URL into its file, whose ending the content decides.

        Yields:
            the URL, and its file or why there is none, as they come.
        """
        with ThreadPoolExecutor(self.args.parallel) as pool:
            waiting = {pool.submit(self.fetch, url, place): url for url, place in wanted.items()}
            try:
                for done in as_completed(waiting):
                    file, reason = done.result()
                    yield waiting[done], file, reason
            finally:  # Ctrl-C: those that wait do not begin, those under way end at their next piece
                self.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def fetch(self, url: str, place: Path) -> tuple[Path | None, str | None]:
        """One file; where there is none the reason."""
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
            RefusedError: what comes is too much, takes too long, or is of another kind.
            OSError: it breaks off.
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
                    raise RefusedError(f"it has {int(length):,} bytes, and --max_bytes is {self.args.max_bytes:,}.")
                while piece := answer.read1(PIECE):
                    got += len(piece)
                    self.count(len(piece), got)
                    if time.monotonic() > end:
                        raise RefusedError(f"it took longer than --timeout {self.args.timeout} s.")
                    if self.stopped.is_set():
                        raise RefusedError("it was stopped.")
                    file.write(piece)
                if length.isdigit() and got != int(length):
                    raise OSError(f"{got:,} of {int(length):,} bytes came")
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
        """Takes in bytes that came, of a file that has so many by now.

        Raises:
            RefusedError: they are too many.
        """
        with self.lock:
            self.size += more
            total = self.size
        if got > self.args.max_bytes:
            raise RefusedError(f"it has more than --max_bytes {self.args.max_bytes:,}.")
        if total > self.args.max_total_bytes:
            raise RefusedError(f"all files together have more than --max_total_bytes {self.args.max_total_bytes:,}.")

    def ending_of(self, content_type: str, headers: Any, url: str) -> str:
        """The ending of a file's name, by what the server says it is, else by the URL.

        Raises:
            RefusedError: it is of no kind that is wanted.
        """
        by_name = mimetypes.guess_type(urlsplit(url).path)[0] or ""
        said = content_type if headers.get("Content-Type") else ""
        kind = by_name if said in UNKNOWN_TYPES else said
        if kind.partition("/")[0] not in self.types:
            raise RefusedError(f"it is {kind or 'of an unknown type'}, and --types takes {', '.join(self.types)}.")
        return mimetypes.guess_extension(kind) or ""
