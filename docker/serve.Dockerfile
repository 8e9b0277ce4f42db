# docker build -f docker/serve.Dockerfile -t foveate-serve .
# docker run -p 8000:8000 -v /path/to/model:/model:ro foveate-serve --model /model --method divprune --keep 64
FROM python:3.12-slim

# Another build of torch: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN useradd --create-home serve
WORKDIR /home/serve/foveate
COPY . .
# gradio takes an older pillow and an older tomlkit than constraints.txt.
RUN sed -i '/^pillow==/d; /^tomlkit==/d' constraints.txt \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)" \
    && pip install --no-cache-dir -c constraints.txt '.[serve]'

USER serve
WORKDIR /home/serve
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"
# Of one process; SIGTERM lets it answer what it has.
ENTRYPOINT ["foveate", "serve", "--host", "0.0.0.0"]
