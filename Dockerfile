# StreamWatch in a container. Two targets:
#   docker build --target cpu  -t streamwatch:cpu .     (small with --build-arg TORCH_INDEX=<PyTorch's index of CPU wheels>)
#   docker build --target cuda -t streamwatch:cuda .    (run with --gpus all)
# Non-root; the root file system may be read-only: all that is written lies under /var/lib/streamwatch.

FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/streamwatch
WORKDIR /src
COPY requirements.lock ./
RUN if [ -n "$TORCH_INDEX" ]; then /opt/streamwatch/bin/pip install --index-url "$TORCH_INDEX" torch torchvision; fi \
    && if [ -n "$TORCH_INDEX" ]; then grep -viE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' requirements.lock > wanted.txt; \
       else cp requirements.lock wanted.txt; fi \
    && /opt/streamwatch/bin/pip install -r wanted.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY weights ./weights
COPY config ./config
COPY streamwatch ./streamwatch
RUN /opt/streamwatch/bin/pip install --no-deps .

FROM python:3.11-slim-bookworm AS cpu
RUN useradd --system --uid 8460 --home-dir /var/lib/streamwatch --create-home streamwatch \
    && mkdir /etc/streamwatch
COPY --from=build /opt/streamwatch /opt/streamwatch
COPY config/container.yaml /etc/streamwatch/streamwatch.yaml
ENV PATH=/opt/streamwatch/bin:$PATH PYTHONUNBUFFERED=1 STREAMWATCH_SERVER__HOST=0.0.0.0
WORKDIR /var/lib/streamwatch
VOLUME /var/lib/streamwatch
USER 8460
EXPOSE 8460
# Reached from outside the container, the service wants tokens: docker exec ... streamwatch token create me --scope operate
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8460/livez', timeout=3)"]
STOPSIGNAL SIGTERM
CMD ["streamwatch", "serve", "-c", "/etc/streamwatch/streamwatch.yaml"]

FROM cpu AS cuda
# The ordinary wheels of torch bring CUDA along; the driver comes from the host.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
