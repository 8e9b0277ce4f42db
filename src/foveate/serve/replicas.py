"""Replicas of the server on a Ray cluster: each a process with a model of its own, behind one address."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec

from fastapi import FastAPI

from foveate.keeping import stopping
from foveate.serve.limits import Limits

NAME = "foveate"


def run(
    made: Callable[[], FastAPI],
    replicas: int,
    limits: Limits,
    host: str,
    port: int,
    ready: Callable[[], None],
) -> None:
    """Serve until a signal, then let the replicas answer what they have.

    made: the application, in every replica anew; ready: called once all of them answer. A replica that dies
    is replaced. Raises ImportError without Ray Serve.
    """
    if find_spec("ray") is None:
        raise ImportError("replicas want Ray Serve: pip install 'ray[serve]'")
    import ray
    from ray import serve

    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    stopping.heed()  # Ray has signals its own way
    gpus = min(ray.cluster_resources().get("GPU", 0), 1)

    def application() -> (
        FastAPI
    ):  # Ray takes a function for what makes one, and nothing else that is called
        return made()

    @serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=limits.queue,
        graceful_shutdown_timeout_s=limits.seconds,
        ray_actor_options={"num_cpus": 1 - gpus, "num_gpus": gpus},
    )
    @serve.ingress(application)
    class Replica:
        """A server as others are, but for its address."""

    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(Replica.bind(), name=NAME)
        ready()
        threading.Event().wait()
    except KeyboardInterrupt:
        serve.delete(NAME)  # answers what is here, as a shutdown alone does not
    finally:
        serve.shutdown()
        ray.shutdown()
