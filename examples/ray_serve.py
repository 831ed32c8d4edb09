"""Serves a checkpoint with Ray Serve: several copies, on one or many machines, behind one address.

    pip install "mm_hf[ray]"
    python examples/ray_serve.py runs/houses --replicas 2
    curl http://127.0.0.1:8000/predict -F image=@circle.png -F 'question=what color is the shape?'

Each copy is the service of `mm_hf serve`, with its routes, limits and micro-batching. It runs no code from the
checkpoint. Ray sends each request to a copy with little load, so /metrics shows only one of the copies. Without
--address, a cluster is started on this machine, only for this process; it sends no usage data. The script prints:

    2 replicas of runs/houses answer at http://127.0.0.1:8000/predict (Ctrl-C ends them)

It does not check a key: put a proxy that does in front of it before you give another --host. --address names a running
cluster: `ray start --head` on one machine, `ray start --address=HEAD:6379` on the others. On each machine mm_hf must
be installed, and the checkpoint must have the same path. Keep the cluster in a private network; with Ray's
RAY_AUTH_MODE=token it requires a token.
"""

import argparse
import os
import secrets
import signal


# Ray reads these variables when it is imported, so it is imported below.
PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0"}
# For its own cluster: it uses loopback on any system. The ports that copies open for each other listen on all
# addresses, and this cannot be changed; they only answer requests with the token.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
ALONE["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"  # a busy machine takes longer to start one than Ray's 5 seconds


def service_of(run: str, threads: int):
    """Makes the ASGI application of one copy, in its own process."""
    import torch

    from mm_hf.serve.app import make_app
    from mm_hf.serve.backend import PipelineBackend
    from mm_hf.serve.service import Service, Settings

    torch.set_num_threads(threads)  # else each copy takes every core of its machine
    service = Service(Settings(title=os.path.basename(run)))
    service.open(lambda: PipelineBackend.open(run))
    return make_app(service)


def main():
    """The whole script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run or checkpoint, or Hub id")
    parser.add_argument("--replicas", type=int, default=2, help="number of copies")
    parser.add_argument("--threads", type=int, default=1, help="cores per copy")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--address", help="address of a running Ray cluster; left out, one is started on this machine")
    args = parser.parse_args()

    run = os.path.abspath(args.run) if os.path.isdir(args.run) else args.run
    for name, value in {**PRIVATE, **({} if args.address else ALONE)}.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import serve

    own = {"num_cpus": args.replicas * args.threads, "include_dashboard": False}
    ray.init(logging_level="WARNING", **({"address": args.address} if args.address else own))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        serve.start(http_options={"host": args.host, "port": args.port})

        def build():  # Ray calls it in each copy; it would take a `partial` for an application
            return service_of(run, args.threads)

        copy = serve.deployment(serve.ingress(build)())
        # The limit is larger than a batch: the service has its own queue, and refuses requests that do not fit in.
        options = {"num_cpus": args.threads, "runtime_env": {"env_vars": {"TOKENIZERS_PARALLELISM": "false"}}}
        copies = copy.options(num_replicas=args.replicas, max_ongoing_requests=64, ray_actor_options=options)
        serve.run(copies.bind(), name="mm_hf", route_prefix="/")
        where = f"http://{args.host}:{args.port}/predict"
        print(f"{args.replicas} replicas of {args.run} answer at {where} (Ctrl-C ends them)", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("ending", flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
