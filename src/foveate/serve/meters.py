"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from foveate.evaluate.replies import Reply

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class Meters:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        own = {"registry": CollectorRegistry()}
        self._registry = own["registry"]
        self.requests = Counter(
            "foveate_requests", "Requests by how they ended.", ["outcome"], **own
        )
        self.queue = Gauge("foveate_queue_length", "Requests that wait for the model.", **own)
        self.batch = Histogram(
            "foveate_batch_size",
            "Requests answered together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            **own,
        )
        self.prefill = Histogram(
            "foveate_prefill_seconds", "A batch, until its first tokens.", buckets=SECONDS, **own
        )
        self.decode = Histogram(
            "foveate_decode_seconds", "A batch, after its first tokens.", buckets=SECONDS, **own
        )
        self.before = Counter("foveate_visual_tokens_before", "Before compression.", **own)
        self.after = Counter("foveate_visual_tokens_after", "After compression.", **own)

    def note(self, replies: Sequence[Reply], images: Sequence[int]) -> None:
        """A batch, of which each prompt has so many images."""
        self.batch.observe(len(replies))
        self.prefill.observe(sum(reply.seconds for reply in replies))
        self.before.inc(sum(r.before * n for r, n in zip(replies, images, strict=True)))
        self.after.inc(sum(r.after * n for r, n in zip(replies, images, strict=True)))

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
