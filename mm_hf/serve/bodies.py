"""Reads the body of a request up to a limit, and parses it by its type."""

from typing import Any

from .limits import RefusedError
from .rows import Request, read_json, row_of_form
from .service import Service, Work


JSON, FORM = "application/json", "multipart/form-data"
DRAINED = 4  # up to this multiple of the limit, the body is read and dropped, so that the client can read the refusal
FIELDS = 256  # maximum number of fields of a form


async def read_body(request: Any, service: Service, work: Work) -> bytes:
    """The bytes of a body.

    Raises:
        RefusedError: it is too large, or compressed.
    """
    most = service.limits.body_bytes
    refused = RefusedError(
        413, "too_large", f"The body has more than {most} bytes, which is the limit (--max_body_bytes)."
    )
    if (coding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise RefusedError(415, "bad_encoding", f"The body is compressed ({coding!r:.40}): send it uncompressed.")
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > DRAINED * most:
        raise refused
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            work.add(len(part))
            parts.append(part)
        else:
            parts.clear()
            if size > DRAINED * most:
                raise refused
    if size > most:
        raise refused
    if not size:
        raise RefusedError(400, "empty", 'The body is empty. Give {"rows": [{…}]}.')
    return b"".join(parts)


async def read_request(request: Any, service: Service, work: Work) -> Request:
    """Parses a request by the type of its body.

    Raises:
        RefusedError: the type is not supported, or the body does not have this type.
    """
    kind, _, rest = request.headers.get("content-type", JSON).partition(";")
    kind = kind.strip().lower()
    if kind not in (JSON, FORM):
        raise RefusedError(415, "bad_type", f"The body has the type {kind!r:.80}; allowed are {JSON} and {FORM}.")
    charset = rest.lower().partition("charset=")[2].strip().strip('"')
    if kind == JSON and charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise RefusedError(415, "bad_encoding", f"The body is in {charset!r:.40}; send JSON in UTF-8.")
    body = await read_body(request, service, work)
    options = service.backend.options
    if kind == FORM:
        return row_of_form(await fields_of_form(request, body), service.keys, options)
    import asyncio

    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(service.readers, read_json, body, options, service.limits)


async def fields_of_form(request: Any, body: bytes) -> list[tuple[str, str | bytes]]:
    """The fields of a form, as pairs of name and value. The value of an upload is its bytes.

    Raises:
        RefusedError: the body is not a form, or has no field.
    """
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def stream():
        yield body

    parser = MultiPartParser(
        request.headers, stream(), max_files=FIELDS, max_fields=FIELDS, max_part_size=len(body) + 1
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError, AssertionError) as error:
        said = getattr(error, "message", "") or type(error).__name__
        raise RefusedError(400, "bad_form", f"The body is not a valid form ({said:.200}).") from None
    fields: list[tuple[str, str | bytes]] = []
    try:
        for name, value in form.multi_items():
            fields.append((name, value if isinstance(value, str) else await value.read()))
    finally:
        await form.close()
    if not fields:
        raise RefusedError(400, "bad_form", "The form has no field: send at least one.")
    return fields
