"""vLLM's worker for CPUs, which forgets to ask whether tokens bring their positions along."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker


class Worker(CPUWorker):
    """--worker-cls foveate.engines.vllm.worker.Worker. On a GPU vLLM's own does it."""

    def load_model(self, **kwargs: Any) -> None:
        """Load the model, and heed positions as on a GPU."""
        super().load_model(**kwargs)
        config = self.model_config.multimodal_config
        self.model_runner.is_multimodal_pruning_enabled = config.is_multimodal_pruning_enabled()
