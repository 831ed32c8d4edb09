"""The server. It listens at once while the model loads. To stop, it first answers the requests that it has
accepted."""

import logging
import os
import socket
import threading
from collections.abc import Callable
from importlib.util import find_spec

import torch

from .backend import Backend
from .logs import logger
from .service import Service, Settings


PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "swagger_ui_bundle")


def check_packages():
    """Refuses to start without the packages of a server.

    Raises:
        ValueError: with the missing packages, and how to install them.
    """
    if missing := [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]:
        raise ValueError(f"A server requires {', '.join(missing)}, not installed here: pip install 'mm_hf[serve]'.")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 means any free port.

    Raises:
        ValueError: the port is taken, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(2048)
    except (OSError, OverflowError) as error:
        server.close()
        raise ValueError(
            f"The server cannot listen on {host} port {port}: {error}. --port 0 takes a free port."
        ) from None
    return server


def serve(settings: Settings, make_backend: Callable[[], Backend], sock: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Args:
        settings: of the service.
        make_backend: loads the model, in a separate thread.
        sock: see `listen`.

    Raises:
        OSError, ValueError: the model cannot be loaded.
    """
    import uvicorn

    from .app import make_app

    service = Service(settings)
    failures: list[BaseException] = []

    class Server(uvicorn.Server):
        """After the first signal, it answers accepted requests and refuses new ones. The second signal ends it."""

        def handle_exit(self, sig: int, frame) -> None:
            if service.stopping:
                os._exit(128 + sig)
            logger.info("stopping: %d requests in progress", service.in_work)
            service.stop()

        async def on_tick(self, counter: int) -> bool:
            ended = await super().on_tick(counter)
            return ended or bool(failures) or (service.stopping and not service.in_work)

    def load():
        try:
            service.open(make_backend)
        except BaseException as error:
            failures.append(error)
        else:
            logger.info("ready: %s, %d torch threads", settings.title, torch.get_num_threads())

    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,  # it would log the addresses of clients
        lifespan="off",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        # The socket holds requests back if there are more than the server can even refuse.
        backlog=2048,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    threading.Thread(target=load, name="mm_hf-load", daemon=True).start()
    Server(config).run([sock])
    if failures:
        raise failures[0]
    service.close()
    logger.info("stopped")
