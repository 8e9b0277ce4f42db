# vLLM with foveate in it, for a GPU.
#   docker build -f docker/vllm.Dockerfile -t foveate-vllm .
#   docker run --gpus all -p 8000:8000 -v ./out:/models foveate-vllm --model /models/for-vllm
FROM vllm/vllm-openai:v0.33.0

COPY pyproject.toml README.md LICENSE /foveate/
COPY src /foveate/src
# transformers and torch stay as vLLM has them.
RUN pip install --no-cache-dir einops typer rich matplotlib jinja2 && pip install --no-cache-dir --no-deps /foveate

ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]
